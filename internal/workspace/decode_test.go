package workspace

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

// The tags are the only description of the manifests, so none may be missing
// or name something that is not there.
func TestTags(t *testing.T) {
	var walk func(t *testing.T, typ reflect.Type)
	walk = func(t *testing.T, typ reflect.Type) {
		for f := range fieldsOf(typ) {
			if doc := f.Tag.Get("doc"); doc == "" || !strings.HasSuffix(doc, ".") {
				t.Errorf("%s.%s: doc %q is not a sentence", typ.Name(), f.Name, doc)
			}
			for _, tag := range []string{"check", "keys"} {
				if name := f.Tag.Get(tag); name != "" && checks[name] == nil {
					t.Errorf("%s.%s: no check named %q", typ.Name(), f.Name, name)
				}
			}
			if f.Type.Kind() == reflect.Map && f.Tag.Get("keys") == "" {
				t.Errorf("%s.%s: a free table needs a rule for its keys", typ.Name(), f.Name)
			}
			if def := f.Tag.Get("default"); def != "" {
				v := reflect.New(f.Type).Elem()
				setDefault(v, def)
				if enum := f.Tag.Get("enum"); enum != "" {
					for d := range strings.SplitSeq(def, ",") {
						if !slices.Contains(strings.Split(enum, ","), d) {
							t.Errorf("%s.%s: default %q is not allowed", typ.Name(), f.Name, d)
						}
					}
				}
			}
			typeText(f)
			defaultText(f)
			elem := f.Type
			if elem.Kind() == reflect.Slice {
				elem = elem.Elem()
			}
			if elem.Kind() == reflect.Struct {
				walk(t, elem)
			}
		}
	}
	for _, m := range manifests {
		walk(t, m.typ)
	}
}

// What the decoder accepts is TOML to the library too, and means the same;
// every finding has a place inside the file.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"", "a", "schema = 1\nname = 'x'\n", "[sources]\nlookaside = [\"https://x/\"]\n[sources]\n",
		"[[external-files]]\nurl = 'go:a.b/c@v1.0.0'\n[external-files.x]\n", "a.b = 1\na.b.c = 2\n[a]\n", "x = { a = 1, a = 2 }\n",
		"source-date-epoch = 0x10\n", "version = \"\"\"\n", "macros.abc = 1\r\n[macros]\n", "build = [1, [2], {}, 1979-05-27, 1.5, inf]\n",
		"image-layout = { slots = 3 }\nimage-features = { A = true }\n", "a = 012\n", "\"\\u0000\" = 1\n", "[image-layout", "a = [\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := 1 + strings.Count(string(data), "\n")
		for _, dst := range []any{new(Config), new(Package), new(Variant), new(SDK)} {
			_, findings := decode("f.toml", data, dst)
			for _, e := range findings {
				if e.File != "f.toml" || e.Line < 1 || e.Line > lines || e.Column < 1 || e.Msg == "" {
					t.Errorf("finding without a place: %+v", e)
				}
			}
			if len(findings) == 0 {
				other := reflect.New(reflect.TypeOf(dst).Elem()).Interface()
				if err := toml.Unmarshal(data, other); err != nil {
					t.Errorf("accepted, but the library says: %v", err)
				}
			}
		}
	})
}
