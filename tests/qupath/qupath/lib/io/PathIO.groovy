package qupath.lib.io

import groovy.json.JsonSlurper

import qupath.lib.objects.PathObject

/** Reads the polygons and ellipses of a GeoJSON file. */
class PathIO {
    static List readObjectsFromGeoJSON(InputStream stream) {
        new JsonSlurper().parse(stream, 'UTF-8').features.collect { feature ->
            def (xs, ys) = feature.geometry.coordinates[0].transpose()
            double width = xs.max() - xs.min(), height = ys.max() - ys.min()
            new PathObject(
                id: feature.id, annotation: feature.properties.objectType == 'annotation',
                pathClass: feature.properties.classification?.name, name: feature.properties.name,
                x: xs.min() + width / 2, y: ys.min() + height / 2,
                area: width * height * (feature.geometry.isEllipse ? Math.PI / 4 : 1))
        }
    }
}
