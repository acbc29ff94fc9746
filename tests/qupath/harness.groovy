// Runs the import script on images that tests describe, one JSON object a line, and prints the images afterwards.
// The classes beside this file are stand-ins for QuPath's: they have the members that the script uses.

import java.nio.file.Paths

import groovy.json.JsonOutput
import groovy.json.JsonSlurper

import qupath.lib.images.ImageData
import qupath.lib.objects.PathObject
import qupath.lib.scripting.QP

def answers = System.out
System.in.eachLine('UTF-8') { line ->
    def image = new JsonSlurper().parseText(line)
    def objects = image.objects.collect { new PathObject(it) }
    def hierarchy = new Expando(
        addObjects: { added -> objects.addAll(added) },
        removeObjects: { removed, keepChildren ->
            assert keepChildren: 'what lies inside a hotspot would go with it'
            objects.removeAll { object -> removed.any { it.is(object) } }
        })
    def server = new Expando(getWidth: { image.size[0] }, getHeight: { image.size[1] })
    def properties = [:] + image.properties
    def imageData = new ImageData(server, hierarchy, properties, image.type)
    QP.objects = objects
    QP.currentImageData = imageData
    QP.projectEntry = new Expando(getMetadataMap: { image.metadata })
    QP.project = new Expando(getPath: { Paths.get(image.project) })
    def printed = new ByteArrayOutputStream()
    def error = null
    System.out = new PrintStream(printed, true, 'UTF-8')
    try {
        def binding = new Binding(image.args == null ? [:] : [args: image.args as String[]])
        new GroovyShell(getClass().classLoader, binding).evaluate(new File(image.script))
    } catch (IllegalStateException problem) {
        error = problem.message
    } finally {
        System.out = answers
    }
    answers.println(JsonOutput.toJson([
        objects: objects*.described(), properties: properties, type: imageData.getImageType().name(),
        printed: printed.toString('UTF-8'), error: error]))
    answers.flush()
}
