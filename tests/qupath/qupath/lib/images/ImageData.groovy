package qupath.lib.images

/** An image with its objects and properties; in QuPath `getProperty` is a method like any other. */
class ImageData {
    enum ImageType { UNSET, BRIGHTFIELD_H_E, BRIGHTFIELD_H_DAB }

    private final server, hierarchy
    private final Map properties
    private ImageType type

    ImageData(server, hierarchy, Map properties, String type) {
        this.@server = server
        this.@hierarchy = hierarchy
        this.@properties = properties
        this.@type = ImageType.valueOf(type)
    }

    def getServer() { this.@server }

    def getHierarchy() { this.@hierarchy }

    ImageType getImageType() { this.@type }

    void setImageType(ImageType type) { this.@type = type }

    Object getProperty(String key) { this.@properties[key] }

    void setProperty(String key, Object value) { this.@properties[key] = value }
}
