// Package osrelease reads os-release(5), by which a running system knows what
// it is.
package osrelease

import (
	"fmt"
	"os"
	"strings"

	"dinghy/update"
)

// Release is what the file says.
type Release struct {
	ID        string         // of the operating system
	Variant   string         // VARIANT_ID
	Version   update.Version // of the image
	Datastore update.Version // DATASTORE_VERSION: format version of the settings
}

// Read reads the file.
func Read(path string) (Release, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Release{}, err
	}
	r, err := Parse(string(data))
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return r, err
}

// Parse reads the text of such a file.
func Parse(file string) (r Release, err error) {
	values := map[string]string{}
	for line := range strings.Lines(file) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			values[name] = strings.Trim(value, `"'`) // none of these values needs escapes
		}
	}
	text := func(key string) string {
		if values[key] == "" && err == nil {
			err = fmt.Errorf("there is no %s", key)
		}
		return values[key]
	}
	version := func(key string) update.Version {
		v, e := update.ParseVersion(text(key))
		if e != nil && err == nil {
			err = fmt.Errorf("%s: %w", key, e)
		}
		return v
	}
	r = Release{ID: text("ID"), Variant: text("VARIANT_ID"), Version: version("IMAGE_VERSION"), Datastore: version("DATASTORE_VERSION")}
	return r, err
}
