package workspace

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// The struct tags of the manifest types are the whole description of the
// manifests; the decoder and the manifest reference both read them.
//
//	toml         name of the key; fields without it are not in the file
//	doc          what the key means
//	required     the key must be there; a list must have an entry
//	default      value where the key is missing; entries of a list divided by commas
//	default-doc  how the reference describes a default that is not a constant
//	enum         allowed values, divided by commas; of each entry for a list
//	min, max     bounds of an integer
//	check        name of the rule in checks that the text must meet; each entry for a list
//	keys         name of the rule in checks that the keys of a free table must meet

// positions remembers where the keys of a manifest stand.
type positions struct {
	file string
	at   map[string]Position
}

// Position is where the value of a key stands, such as "image-layout.slots" or
// "included-packages[2]"; the file alone for a key that was not written.
func (p *positions) Position(key string) Position {
	if pos, ok := p.at[key]; ok {
		return pos
	}
	return Position{File: p.file}
}

// decoder puts the nodes of one file into a struct.
type decoder struct {
	positions
	findings Errors
	whole    bool // the file was read to its end, so a missing key is missing
}

// decode reads a manifest into dst, a pointer to a struct whose embedded
// positions it fills in. The struct is usable as far as the findings allow.
func decode(file string, data []byte, dst any) (positions, Errors) {
	root, whole, findings := readTOML(file, data)
	d := &decoder{positions: positions{file, map[string]Position{}}, findings: findings, whole: whole}
	d.table(root, reflect.ValueOf(dst).Elem(), "")
	return d.positions, d.findings
}

func join(prefix, key string) string {
	if prefix == "" {
		return key
	}
	return prefix + "." + key
}

func (d *decoder) wrong(n *node, key, msg, hint string) {
	d.findings.add(n.pos, key, fmt.Sprintf("%q %s", key, msg), hint)
}

// kind tells whether the node is of the kind the key wants.
func (d *decoder) kind(n *node, key, want string) bool {
	if n.kind == want {
		return true
	}
	hint := ""
	switch {
	case want == kindString && n.kind == kindInteger:
		hint = fmt.Sprintf("write it in quotes: %q", strconv.FormatInt(n.number, 10))
	case want == kindString && n.kind == kindBoolean:
		hint = fmt.Sprintf("write it in quotes: %q", strconv.FormatBool(n.on))
	case want == kindList && n.kind == kindString:
		hint = fmt.Sprintf("write it in brackets: [%q]", n.text)
	case want == kindTables && n.kind == kindTable:
		hint = fmt.Sprintf("write its header in double brackets: [[%s]]", key)
	case want == kindTable && n.kind == kindTables:
		hint = fmt.Sprintf("write its header in single brackets: [%s]", key)
	case (want == kindInteger || want == kindBoolean) && n.kind == kindString:
		hint = "write it without quotes"
	}
	d.wrong(n, key, "must be "+want+", not "+n.kind, hint)
	return false
}

func (d *decoder) table(n *node, v reflect.Value, prefix string) {
	known := keysOf(v.Type())
	for _, key := range n.keys {
		if _, ok := known[key]; !ok {
			d.unknown(n.fields[key], key, prefix, known)
		}
	}
	for f := range fieldsOf(v.Type()) {
		key := f.Tag.Get("toml")
		field := v.FieldByIndex(f.Index)
		if child := n.fields[key]; child != nil {
			d.value(child, field, f.Tag, join(prefix, key))
			continue
		}
		switch {
		case f.Type.Kind() == reflect.Struct:
			d.table(newTable(n.pos), field, join(prefix, key)) // for its defaults
		case f.Tag.Get("required") != "" && d.whole:
			d.findings.add(n.keyPos, join(prefix, key), fmt.Sprintf("%q is missing", join(prefix, key)), strings.TrimSuffix(f.Tag.Get("doc"), "."))
		case f.Tag.Get("default") != "":
			setDefault(field, f.Tag.Get("default"))
		}
	}
}

func (d *decoder) unknown(n *node, key, prefix string, known map[string]reflect.Type) {
	names := slices.Sorted(maps.Keys(known))
	hint := DidYouMean(Near(key, names))
	if hint == "" {
		for _, name := range names {
			t := known[name]
			if t.Kind() == reflect.Slice {
				t = t.Elem()
			}
			if t.Kind() == reflect.Struct {
				if _, ok := keysOf(t)[key]; ok {
					hint = fmt.Sprintf("did you mean %q?", join(name, key))
				}
			}
		}
	}
	if hint == "" {
		hint = "known here: " + strings.Join(names, ", ")
	}
	full := join(prefix, key)
	d.findings.add(n.keyPos, full, fmt.Sprintf("unknown key %q", full), hint)
}

func (d *decoder) value(n *node, v reflect.Value, tag reflect.StructTag, key string) {
	d.at[key] = n.pos
	switch v.Kind() {
	case reflect.String:
		if d.kind(n, key, kindString) && d.allowed(n, n.text, tag, key) {
			v.SetString(n.text)
		}
	case reflect.Int, reflect.Int64:
		if d.kind(n, key, kindInteger) && d.bounds(n, tag, key) && d.allowed(n, strconv.FormatInt(n.number, 10), tag, key) {
			v.SetInt(n.number)
		}
	case reflect.Bool:
		if d.kind(n, key, kindBoolean) {
			v.SetBool(n.on)
		}
	case reflect.Struct:
		if d.kind(n, key, kindTable) {
			d.table(n, v, key)
		}
	case reflect.Map:
		d.free(n, v, tag, key)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Struct {
			d.tables(n, v, key)
		} else {
			d.strings(n, v, tag, key)
		}
	default:
		panic("workspace: no decoding for " + v.Type().String())
	}
}

// free reads a table whose keys are free.
func (d *decoder) free(n *node, v reflect.Value, tag reflect.StructTag, key string) {
	if !d.kind(n, key, kindTable) {
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for _, name := range n.keys {
		child, full := n.fields[name], join(key, name)
		if msg, hint := checks[tag.Get("keys")](name); msg != "" {
			d.findings.add(child.keyPos, full, fmt.Sprintf("%q %s", full, msg), hint)
			continue
		}
		elem := reflect.New(v.Type().Elem()).Elem()
		d.value(child, elem, "", full)
		v.SetMapIndex(reflect.ValueOf(name), elem)
	}
}

func (d *decoder) tables(n *node, v reflect.Value, key string) {
	// [] and [{…}] say the same as [[header]].
	if n.kind == kindList && !slices.ContainsFunc(n.items, func(i *node) bool { return i.kind != kindTable }) {
		n.kind = kindTables
	}
	if !d.kind(n, key, kindTables) {
		return
	}
	for i, item := range n.items {
		elem := reflect.New(v.Type().Elem()).Elem()
		full := fmt.Sprintf("%s[%d]", key, i)
		d.at[full] = item.pos
		if pos := elem.FieldByName("Pos"); pos.IsValid() {
			pos.Set(reflect.ValueOf(item.pos))
		}
		d.table(item, elem, full)
		v.Set(reflect.Append(v, elem))
	}
}

func (d *decoder) strings(n *node, v reflect.Value, tag reflect.StructTag, key string) {
	if !d.kind(n, key, kindList) {
		return
	}
	if len(n.items) == 0 && tag.Get("required") != "" {
		d.wrong(n, key, "is empty", strings.TrimSuffix(tag.Get("doc"), "."))
	}
	// An entry with a finding leaves an empty text, so that places stay in step.
	list := make([]string, len(n.items))
	first := map[string]Position{}
	for i, item := range n.items {
		full := fmt.Sprintf("%s[%d]", key, i)
		d.at[full] = item.pos
		if !d.kind(item, full, kindString) || !d.allowed(item, item.text, tag, full) {
			continue
		}
		if pos, ok := first[item.text]; ok {
			d.findings.add(item.pos, full, fmt.Sprintf("%q names %q twice", key, item.text), fmt.Sprintf("first in line %d; keep one", pos.Line))
			continue
		}
		first[item.text] = item.pos
		list[i] = item.text
	}
	v.Set(reflect.ValueOf(list))
}

func (d *decoder) bounds(n *node, tag reflect.StructTag, key string) bool {
	least, greatest := tag.Get("min"), tag.Get("max")
	switch {
	case least != "" && n.number < mustInt(least):
		d.wrong(n, key, fmt.Sprintf("is %d, which is less than %s", n.number, least), "")
		return false
	case greatest != "" && n.number > mustInt(greatest):
		d.wrong(n, key, fmt.Sprintf("is %d, which is more than %s", n.number, greatest), "")
		return false
	}
	return true
}

// allowed holds a text against the enum and the check of its key.
func (d *decoder) allowed(n *node, text string, tag reflect.StructTag, key string) bool {
	if enum := tag.Get("enum"); enum != "" {
		values := strings.Split(enum, ",")
		if slices.Contains(values, text) {
			return true
		}
		hint := DidYouMean(Near(text, values))
		if hint == "" || n.kind == kindInteger {
			hint = "known: " + strings.Join(values, ", ")
		}
		if n.kind == kindString {
			text = strconv.Quote(text)
		}
		d.wrong(n, key, "does not know the value "+text, hint)
		return false
	}
	if name := tag.Get("check"); name != "" {
		if msg, hint := checks[name](text); msg != "" {
			d.wrong(n, key, msg, hint)
			return false
		}
	}
	return true
}

func setDefault(v reflect.Value, text string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Int, reflect.Int64:
		v.SetInt(mustInt(text))
	case reflect.Bool:
		v.SetBool(text == "true")
	case reflect.Slice:
		v.Set(reflect.ValueOf(strings.Split(text, ",")))
	default:
		panic("workspace: no default for " + v.Type().String())
	}
}

// mustInt reads a number out of a struct tag.
func mustInt(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// fieldsOf yields the fields of a manifest type that are keys.
func fieldsOf(t reflect.Type) func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if f := t.Field(i); f.Tag.Get("toml") != "" && !yield(f) {
				return
			}
		}
	}
}

func keysOf(t reflect.Type) map[string]reflect.Type {
	keys := map[string]reflect.Type{}
	for f := range fieldsOf(t) {
		keys[f.Tag.Get("toml")] = f.Type
	}
	return keys
}
