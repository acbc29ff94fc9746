package qupath.lib.scripting

/** What the import script asks of QuPath's class of this name, about the image that a test describes. */
class QP {
    static projectEntry, project, currentImageData
    static List objects

    static Collection getAnnotationObjects() { objects.findAll { it.annotation }.asImmutable() }

    static Collection getDetectionObjects() { objects.findAll { !it.annotation }.asImmutable() }
}
