package qupath.lib.objects

/** A detection or an annotation, by what the import script asks of it. */
class PathObject {
    String id, pathClass, name, description
    boolean annotation
    double x, y, area

    UUID getID() { UUID.fromString(id) }

    def getROI() { new Expando(getCentroidX: { x }, getCentroidY: { y }, getArea: { area }) }

    Map described() {
        [id: id, pathClass: pathClass, name: name, description: description, annotation: annotation, x: x, y: y, area: area]
    }
}
