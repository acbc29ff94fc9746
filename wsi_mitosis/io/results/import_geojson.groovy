// Brings what wsi-mitosis found on this slide into QuPath, in place of what an earlier run of this script brought.
//
//   In QuPath:  Automate > Project scripts > import_geojson, then Run > Run for project
//   Headless:   QuPath script -p qupath/project.qpproj -s qupath/scripts/import_geojson.groovy
//
// What you drew stays. So does what you made of the figures since they were brought in: those that you gave
// another class, moved, renamed or described are not replaced, those that you deleted do not come back.
// To have all of them again as wsi-mitosis wrote them, set keepReview to false, or add: --args discard-review
// An image that has no type yet becomes H&E.
//
// This file is written anew by every run of wsi-mitosis with --qupath-project.

import static qupath.lib.scripting.QP.*

import java.util.zip.GZIPInputStream

import qupath.lib.images.ImageData
import qupath.lib.io.PathIO

def keepReview = true

if (binding.hasVariable('args') && args != null && 'discard-review' in (args as List))
    keepReview = false

// Which slide this is, whatever the entry is called now
def slide = getProjectEntry()?.getMetadataMap()?.get('wsi-mitosis')
if (slide == null) {
    println 'No slide of wsi-mitosis: left alone'
    return
}
def folder = getProject().getPath().toAbsolutePath().getParent().resolveSibling('geojson')
def file = ['.geojson', '.geojson.gz'].collect { folder.resolve(slide + it).toFile() }.find { it.isFile() }
if (file == null) {
    println "${slide}: wsi-mitosis wrote no figures (summary.csv says why); left alone"
    return
}
def open = { file.name.endsWith('.gz') ? new GZIPInputStream(file.newInputStream()) : file.newInputStream() }

// Coordinates fit one crop of the slide only; the first line says the size of that crop
def imageData = getCurrentImageData()
def shown = [imageData.getServer().getWidth(), imageData.getServer().getHeight()]
def stated = open().withReader('UTF-8') { it.readLine() } =~ /"image_px":\[(\d+),(\d+)\]/
def meant = stated.find() ? [stated.group(1) as int, stated.group(2) as int] : null
if (meant != shown)
    throw new IllegalStateException("${slide}: the figures are for an image of ${meant?.join(' x ')} px, QuPath " +
        "shows ${shown.join(' x ')} px. Run wsi-mitosis again with the --geojson-frame of the run that put this " +
        'slide into the project, or delete its entry from the project and run again')

// What can be told of an object: class, name, centre and area
def state = { object ->
    def roi = object.getROI()
    [object.getPathClass(), object.getName(), roi.getCentroidX(), roi.getCentroidY(), roi.getArea()]
        .collect { "${it}".toString() }
}
// QuPath rounds on reading and on saving: half a pixel, or a twentieth of the area, is no change
def near = { a, b, tolerance -> Math.abs((a as double) - (b as double)) <= tolerance }
def same = { a, b ->
    a[0..1] == b[0..1] && near(a[2], b[2], 0.5) && near(a[3], b[3], 0.5) &&
        near(a[4], b[4], Math.max(1, 0.05 * (b[4] as double)))
}

// What was brought in before, as it was then; saved together with the objects
def key = 'wsi-mitosis imported'
def before = [:]
((imageData.getProperty(key) ?: '') as String).eachLine {
    def fields = it.split('\t') as List
    before[fields[0]] = fields[1..-1]
}
def fresh = open().withStream { PathIO.readObjectsFromGeoJSON(it) }
def written = fresh.collectEntries { [it.getID().toString(), state(it)] }
def ours = written + before
def here = [*getAnnotationObjects(), *getDetectionObjects()].groupBy { it.getID().toString() }
def touched = { id, object ->
    !same(state(object), ours[id]) || (object.respondsTo('getDescription') && object.getDescription())
}
def isReviewed = { id ->
    keepReview && (here.containsKey(id) ? here[id].any { touched(id, it) } : before.containsKey(id))
}
def reviewed = ours.keySet().findAll(isReviewed)

def old = ours.keySet().collectMany { id ->
    (here[id] ?: []).findAll { !(id in reviewed) || !touched(id, it) }
}
def fetched = fresh.findAll { !(it.getID().toString() in reviewed) }
def hierarchy = imageData.getHierarchy()
hierarchy.removeObjects(old, true)  // not what lies inside them
hierarchy.addObjects(fetched)

def remembered = ours.subMap(reviewed) + written.findAll { !(it.key in reviewed) }
imageData.setProperty(key, remembered.collect { id, fields -> ([id] + fields).join('\t') }.join('\n'))
if (imageData.getImageType() in [null, ImageData.ImageType.UNSET])
    imageData.setImageType(ImageData.ImageType.BRIGHTFIELD_H_E)
println "${slide}: ${fetched.size()} objects brought in, ${old.size()} of before removed, " +
    "${reviewed.size()} left as you left them"
