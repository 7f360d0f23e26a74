package pkcs11

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
)

const scheme = "pkcs11:"

// IsURI tells whether a reference to a key is a URI of PKCS #11 rather than a
// file.
func IsURI(ref string) bool {
	return len(ref) >= len(scheme) && strings.EqualFold(ref[:len(scheme)], scheme)
}

// URI names a key in a token (RFC 7512). What is empty matches everything.
type URI struct {
	Token        string // label of the token
	Manufacturer string // of the token
	Model        string // of the token
	Serial       string // of the token
	SlotID       string // decimal
	Object       string // label of the key
	ID           string // of the key, as bytes
	ModulePath   string // absolute path of the library that knows the token
	PINSource    string // absolute path of a file with the PIN; "" is $SLIPWAY_PKCS11_PIN
}

// attributes of the path and of the query, with where their values go.
func (u *URI) attributes() (path, query map[string]*string) {
	kind := new(string)
	return map[string]*string{
			"token": &u.Token, "manufacturer": &u.Manufacturer, "model": &u.Model, "serial": &u.Serial,
			"slot-id": &u.SlotID, "object": &u.Object, "id": &u.ID, "type": kind,
		}, map[string]*string{
			"module-path": &u.ModulePath, "pin-source": &u.PINSource,
		}
}

// ParseURI reads a URI with the attributes token, manufacturer, model, serial,
// slot-id, object, id and type=private in its path, and module-path and
// pin-source, of which the former must be there, in its query. Errors hold no
// values of the query.
func ParseURI(text string) (*URI, error) {
	u := &URI{}
	if !IsURI(text) {
		return nil, errors.New("a PKCS #11 URI begins with pkcs11:")
	}
	path, query, _ := strings.Cut(text[len(scheme):], "?")
	inPath, inQuery := u.attributes()
	if err := attributes(path, ";", inPath); err != nil {
		return nil, err
	}
	if err := attributes(query, "&", inQuery); err != nil {
		return nil, err
	}
	if kind := *inPath["type"]; kind != "" && kind != "private" {
		return nil, fmt.Errorf("type=%s: only private keys sign: want type=private, or leave it out", kind)
	}
	if u.SlotID != "" {
		if _, err := strconv.ParseUint(u.SlotID, 10, 64); err != nil {
			return nil, fmt.Errorf("slot-id=%s: want a decimal number", u.SlotID)
		}
	}
	switch {
	case u.ModulePath == "":
		return nil, errors.New("which library knows the token: add ?module-path= with its absolute path, such as /usr/lib/softhsm/libsofthsm2.so")
	case !filepath.IsAbs(u.ModulePath):
		return nil, errors.New("module-path: want an absolute path")
	}
	if u.PINSource != "" {
		file := u.PINSource
		if strings.HasPrefix(file, "|") {
			return nil, errors.New("pin-source: programs are not run: want an absolute path of a file")
		}
		file = strings.TrimPrefix(file, "file:")
		if rest, ok := strings.CutPrefix(file, "//"); ok {
			file = rest
		}
		if !filepath.IsAbs(file) {
			return nil, errors.New("pin-source: want an absolute path of a file")
		}
		u.PINSource = file
	}
	return u, nil
}

// attributes reads one part of a URI.
func attributes(text, separator string, known map[string]*string) error {
	seen := map[string]bool{}
	for _, a := range strings.Split(text, separator) {
		if a == "" {
			continue
		}
		name, value, _ := strings.Cut(a, "=")
		to := known[name]
		switch {
		case name == "pin-value":
			return errors.New("pin-value: other processes and the history of a shell see it: put the PIN into a file and name that with pin-source, or into $" + EnvPIN)
		case to == nil:
			var names []string
			for n := range known {
				names = append(names, n)
			}
			return fmt.Errorf("unknown attribute %q: want one of %s%s", name, sorted(names), percent(name))
		case seen[name]:
			return fmt.Errorf("%s is there twice", name)
		}
		seen[name] = true
		decoded, err := url.PathUnescape(value)
		if err != nil {
			return fmt.Errorf("%s: want %%XX for each byte that is no letter, digit or one of -._~: %%25 for %%", name)
		}
		if decoded == "" {
			return fmt.Errorf("%s is empty", name)
		}
		if strings.ContainsRune(decoded, 0) && name != "id" {
			return fmt.Errorf("%s has a byte zero in it", name)
		}
		*to = decoded
	}
	return nil
}

// percent says what to do where a value was cut at a separator.
func percent(name string) string {
	if name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz-") == "" {
		return ""
	}
	return " (in values, write %3B for a semicolon, %26 for &, %3F for a question mark)"
}

// Show is a URI for messages: without what ParseURI does not know, since that may
// be a PIN.
func Show(text string) string {
	if !IsURI(text) {
		return text
	}
	path, query, found := strings.Cut(text[len(scheme):], "?")
	inPath, inQuery := (&URI{}).attributes()
	out := scheme + show(path, ";", inPath)
	if found {
		out += "?" + show(query, "&", inQuery)
	}
	return out
}

func show(text, separator string, known map[string]*string) string {
	parts := strings.Split(text, separator)
	for i, a := range parts {
		if name, _, _ := strings.Cut(a, "="); a != "" && known[name] == nil {
			parts[i] = "…"
		}
	}
	return strings.Join(parts, separator)
}
