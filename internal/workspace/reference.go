package workspace

import (
	"bufio"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
)

// manifests are the files of a workspace with their types.
var manifests = []struct {
	file, intro string
	typ         reflect.Type
}{
	{RootFile, "The workspace: its identity and what all builds share. It stands in the root folder of the workspace.", reflect.TypeFor[Config]()},
	{"packages/<name>/" + PackageFile, "A package: one folder with this manifest, the spec `<name>.spec` and the package's own files. The file may be empty.", reflect.TypeFor[Package]()},
	{"variants/<name>/" + VariantFile, "A variant: a named disk image.", reflect.TypeFor[Variant]()},
	{MigrationsFile, "The migrations of hosts' data, see [migrations](migrations.md). The file is optional; the archive of a build and what `slipway repo add --migrations` takes have it too.", reflect.TypeFor[Migrations]()},
	{SDKFile, "The SDK: the root filesystem that every build runs in.", reflect.TypeFor[SDK]()},
	{"~/.config/slipway/" + UserFile, "The configuration of one user. What it says comes before what `slipway.toml` says, key by key.", reflect.TypeFor[User]()},
}

// Reference writes the manifest reference as Markdown: a section for each file
// with a table of its keys. It is made from the tags that the decoder obeys.
func Reference(w io.Writer) error {
	out := bufio.NewWriter(w)
	fmt.Fprint(out, `# Manifest reference

Manifests are [TOML](https://toml.io) files. They are read strictly: unknown or
repeated keys, wrong types and malformed values are errors, and all of them are
reported at once. A key with dots stands in a table: `+"`sources.upstream` is the\nkey `upstream` of `[sources]`, `external-files[].url` the key `url` of each\n`[[external-files]]`.\n")
	for _, m := range manifests {
		fmt.Fprintf(out, "\n## `%s`\n\n%s\n\n", m.file, m.intro)
		fmt.Fprint(out, "| Key | Type | Default | Required | Meaning |\n| --- | --- | --- | --- | --- |\n")
		referenceRows(out, m.typ, "")
	}
	return out.Flush()
}

func referenceRows(out io.Writer, t reflect.Type, prefix string) {
	for f := range fieldsOf(t) {
		key := join(prefix, f.Tag.Get("toml"))
		required := "no"
		if f.Tag.Get("required") != "" {
			required = "yes"
		}
		fmt.Fprintf(out, "| `%s` | %s | %s | %s | %s |\n", key, typeText(f), defaultText(f), required, cell(f.Tag.Get("doc")))
		switch {
		case f.Type.Kind() == reflect.Struct:
			referenceRows(out, f.Type, key)
		case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct:
			referenceRows(out, f.Type.Elem(), key+"[]")
		}
	}
}

func typeText(f reflect.StructField) string {
	enum := f.Tag.Get("enum")
	if enum != "" {
		values := strings.Split(enum, ",")
		for i, v := range values {
			values[i] = tomlText(kindOf(f.Type), v)
		}
		enum = strings.Join(values, " or ")
	}
	switch f.Type.Kind() {
	case reflect.String:
		if enum != "" {
			return enum
		}
		return "string"
	case reflect.Int, reflect.Int64:
		least, greatest := f.Tag.Get("min"), f.Tag.Get("max")
		switch {
		case enum != "":
			return enum
		case least != "" && greatest != "":
			return "integer, " + least + " to " + greatest
		case least != "":
			return "integer, " + least + " or more"
		}
		return "integer"
	case reflect.Bool:
		return "boolean"
	case reflect.Struct:
		return "table"
	case reflect.Map:
		if f.Type.Elem().Kind() == reflect.Bool {
			return "table of booleans, free names"
		}
		return "table of strings, free names"
	case reflect.Slice:
		if f.Type.Elem().Kind() == reflect.Struct {
			return "list of tables"
		}
		if enum != "" {
			return "list of " + enum
		}
		return "list of strings"
	}
	panic("workspace: no description of " + f.Type.String())
}

func defaultText(f reflect.StructField) string {
	if text, ok := f.Tag.Lookup("default-doc"); ok {
		return cell(text)
	}
	text, ok := f.Tag.Lookup("default")
	switch {
	case !ok && f.Type.Kind() == reflect.Slice && f.Tag.Get("required") == "" && f.Type.Elem().Kind() == reflect.String:
		return "`[]`"
	case !ok:
		return ""
	case f.Type.Kind() == reflect.Slice:
		values := strings.Split(text, ",")
		for i, v := range values {
			values[i] = strconv.Quote(v)
		}
		return "`[" + strings.Join(values, ", ") + "]`"
	}
	return tomlText(f.Type.Kind(), text)
}

// kindOf is the kind of a value, or of the entries of a list.
func kindOf(t reflect.Type) reflect.Kind {
	if t.Kind() == reflect.Slice {
		return t.Elem().Kind()
	}
	return t.Kind()
}

func tomlText(kind reflect.Kind, value string) string {
	if kind == reflect.String {
		value = strconv.Quote(value)
	}
	return "`" + value + "`"
}

// cell escapes what Markdown would take for itself in a table cell.
func cell(text string) string {
	for _, c := range []string{"\\", "|", "<", ">", "*"} {
		text = strings.ReplaceAll(text, c, "\\"+c)
	}
	return text
}
