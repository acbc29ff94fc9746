// Imports the figures and hotspots that wsi-mitosis found on this slide, and replaces those of an earlier import.
//
//   In QuPath:  Automate > Project scripts > import_geojson, then Run > Run for project
//   Headless:   QuPath script -p qupath/project.qpproj -s qupath/scripts/import_geojson.groovy
//
// The script never removes objects that you drew. It also keeps what you changed since the last import: figures
// whose class, place, size, name or description you changed are not replaced, and figures that you deleted are
// not imported again. Copies of figures are removed: QuPath makes them when a file is dropped again and its question
// about new IDs is answered with Yes. To import everything as wsi-mitosis wrote it, set keepReview to false, or add to the command:
//   --args @discard_argument@
// The image type is set to H&E if the image has none.
//
// Every run of wsi-mitosis with --qupath-project overwrites this file.

import static qupath.lib.scripting.QP.*

import java.util.zip.GZIPInputStream

import qupath.lib.images.ImageData
import qupath.lib.io.PathIO

def keepReview = true

// Names and limits that wsi-mitosis fills in
def slideKey = @slide_key@
def importedKey = @imported_key@
def geojsonFolder = @geojson_folder@
def geojsonEndings = @geojson_endings@
def imageSizeKey = @image_size_key@
def movedPx = @moved_px@
def resizedShare = @resized_share@

if (binding.hasVariable('args') && args != null && @discard_argument@ in (args as List))
    keepReview = false

// The slide's name in the output folder, which does not change if the entry is renamed
def slide = getProjectEntry()?.getMetadataMap()?.get(slideKey)
if (slide == null) {
    println 'wsi-mitosis did not add this image to the project. Nothing was imported'
    return
}
def folder = getProject().getPath().toAbsolutePath().getParent().resolveSibling(geojsonFolder)
def file = geojsonEndings.collect { folder.resolve(slide + it).toFile() }.find { it.isFile() }
if (file == null) {
    println "${slide}: wsi-mitosis wrote no figures for this slide. Nothing was imported. summary.csv has the reason"
    return
}
def open = { file.name.endsWith('.gz') ? new GZIPInputStream(file.newInputStream()) : file.newInputStream() }

// Coordinates are valid for one crop of the slide only. The first line of the file has the size of that crop
def imageData = getCurrentImageData()
def shown = [imageData.getServer().getWidth(), imageData.getServer().getHeight()]
def stated = open().withReader('UTF-8') { it.readLine() } =~ ('"' + imageSizeKey + '":\\[(\\d+),(\\d+)\\]')
def expected = stated.find() ? [stated.group(1) as int, stated.group(2) as int] : null
if (expected != shown)
    throw new IllegalStateException("${slide}: the figures are for an image of ${expected?.join(' x ')} px, but " +
        "QuPath shows ${shown.join(' x ')} px. Run wsi-mitosis again with the --geojson-frame of the run that " +
        'added this slide to the project, or delete the entry from the project and run wsi-mitosis again')

// An object's class, name, centre (px) and area (px^2) as text
def state = { object ->
    def roi = object.getROI()
    [object.getPathClass(), object.getName(), roi.getCentroidX(), roi.getCentroidY(), roi.getArea()]
        .collect { "${it}".toString() }
}
// QuPath rounds coordinates when it reads and saves them, so small differences are not changes by a user
def near = { a, b, tolerance -> Math.abs((a as double) - (b as double)) <= tolerance }
def same = { a, b ->
    a[0..1] == b[0..1] && near(a[2], b[2], movedPx) && near(a[3], b[3], movedPx) &&
        near(a[4], b[4], Math.max(1, resizedShare * (b[4] as double)))
}

// The objects of earlier imports as they were then; QuPath saves this property together with the objects
def before = [:]
((imageData.getProperty(importedKey) ?: '') as String).eachLine {
    def fields = it.split('\t') as List
    before[fields[0]] = fields[1..-1]
}
def fresh = open().withStream { PathIO.readObjectsFromGeoJSON(it) }
def written = fresh.collectEntries { [it.getID().toString(), state(it)] }
def known = written + before
def present = [*getAnnotationObjects(), *getDetectionObjects()].groupBy { it.getID().toString() }

// Copies: objects with other ids that are the same as an imported one. Cells of 1 px make the search fast
def cell = { fields, dx, dy -> fields[0..1] + [Math.floor(fields[2] as double) + dx, Math.floor(fields[3] as double) + dy] }
def places = known.keySet().groupBy { cell(known[it], 0, 0) }
def original = { object ->
    def fields = state(object)
    [-1, 0, 1].collectMany { dx -> [-1, 0, 1].collectMany { dy -> places[cell(fields, dx, dy)] ?: [] } }
        .find { same(fields, known[it]) }
}
def strangers = present.findAll { !known.containsKey(it.key) }.values().flatten()
def originals = strangers.collectEntries { [it, original(it)] }.findAll { it.value != null }
def copies = originals.keySet() as List
def copied = originals.values() as Set

def isChanged = { id, object ->
    !same(state(object), known[id]) || (object.respondsTo('getDescription') && object.getDescription())
}
def isReviewed = { id ->
    keepReview && (present.containsKey(id) ? present[id].any { isChanged(id, it) } :
        before.containsKey(id) && !(id in copied))
}
def reviewed = known.keySet().findAll(isReviewed)

def removed = copies + known.keySet().collectMany { id ->
    (present[id] ?: []).findAll { !(id in reviewed) || !isChanged(id, it) }
}
def added = fresh.findAll { !(it.getID().toString() in reviewed) }
def hierarchy = imageData.getHierarchy()
hierarchy.removeObjects(removed, true)  // true keeps the objects inside them
hierarchy.addObjects(added)

def remembered = known.subMap(reviewed) + written.findAll { !(it.key in reviewed) }
imageData.setProperty(importedKey, remembered.collect { id, fields -> ([id] + fields).join('\t') }.join('\n'))
if (imageData.getImageType() in [null, ImageData.ImageType.UNSET])
    imageData.setImageType(ImageData.ImageType.BRIGHTFIELD_H_E)
println "${slide}: ${added.size()} objects imported, ${removed.size() - copies.size()} earlier objects removed, " +
    "${reviewed.size()} reviewed objects kept" + (copies ? ", ${copies.size()} copies removed" : '')
