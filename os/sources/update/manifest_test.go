package update

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

func v(text string) Version {
	version, err := ParseVersion(text)
	if err != nil {
		panic(err)
	}
	return version
}

func TestParseVersion(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"0.0.0", "1.2.3", "4294967295.0.10"} {
		if got, err := ParseVersion(text); err != nil || got.String() != text {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "1", "1.2", "1.2.3.4", "01.2.3", "1.2.x", "1.2.-3", "1.2.+3", "1.2.3-rc1", "1.2.4294967296", " 1.2.3"} {
		if got, err := ParseVersion(text); err == nil {
			t.Errorf("%q is read as %s", text, got)
		}
	}
	if v("1.10.0").Compare(v("1.9.9")) <= 0 || v("1.0.0").Compare(v("1.0.0")) != 0 || v("1.0.1").Compare(v("2.0.0")) >= 0 {
		t.Error("versions are out of order")
	}
}

func file(name string) File {
	return File{Target: name, Size: 1, SHA256: strings.Repeat("a", 64)}
}

func release(version, datastore string) Update {
	image := func(kind string) Image {
		f := file("dev-x86_64-" + version + "-" + kind)
		return Image{File: f, ContentSize: f.Size, ContentSHA256: f.SHA256}
	}
	return Update{
		Variant: "dev", Arch: "x86_64", Version: v(version), Datastore: v(datastore),
		Images: Images{Root: image("root.img"), Hash: image("hash.img"), UKI: image("uki.efi")},
	}
}

func step(from, to string, names ...string) Migration {
	m := Migration{From: v(from), To: v(to), Files: []File{}}
	for _, n := range names {
		m.Files = append(m.Files, file(n))
	}
	return m
}

func example() *Manifest {
	paused := start
	second := release("1.1.0", "1.1.0")
	second.Waves = Waves{0: start, 2048: at(time.Hour)}
	second.PausedAt = &paused
	second.Images.Root.Compression, second.Images.Root.ContentSize = Zstd, 4096
	second.SBOM = []File{file("dev-x86_64-1.1.0-sbom.spdx.json")}
	second.Provenance = []File{file("dev-x86_64-1.1.0-provenance.intoto.jsonl")}
	return &Manifest{
		Schema: 1, Updates: []Update{second, release("1.0.0", "1.0.0")},
		Migrations: []Migration{step("1.0.0", "1.1.0", "add-x")},
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	data, err := example().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	m, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	again, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, again) {
		t.Errorf("reading and writing changes the manifest:\n%s\n%s", data, again)
	}
	if m.Updates[0].Version != v("1.0.0") || m.Update("dev", "x86_64", v("1.1.0")).Images.Root.ContentSize != 4096 {
		t.Errorf("read %+v", m)
	}
	if empty, err := (&Manifest{Schema: 1}).Marshal(); err != nil || !strings.Contains(string(empty), `"updates": []`) {
		t.Errorf("an empty manifest: %s, %v", empty, err)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	good, err := example().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ old, new, want string }{
		"later schema":        {`"schema": 1`, `"schema": 2`, "schema 2: this program knows schema 1"},
		"unknown key":         {`"datastore"`, `"datastor"`, `unknown field "datastor"`},
		"not JSON":            {`"updates": [`, `"updates": (`, "invalid character"},
		"text behind":         {"", `{}`, "after top-level value"},
		"version":             {`"version": "1.0.0"`, `"version": "1.0"`, `version "1.0": want three numbers`},
		"bound":               {`"2048"`, `"2049"`, "update dev x86_64 1.1.0: bound 2049 of the waves"},
		"path in a name":      {`-1.0.0-root.img"`, `/../root.img"`, `target name "dev-x86_64/../root.img"`},
		"digest":              {strings.Repeat("a", 64), "aa", "is malformed"},
		"size":                {`"size": 1`, `"size": -1`, "size -1"},
		"compression":         {`"zstd"`, `"xz"`, `unknown compression "xz"`},
		"content":             {`"contentSize": 1,`, `"contentSize": 2,`, "which is not compressed"},
		"variant":             {`"variant": "dev"`, `"variant": "d v"`, `"d v": want letters`},
		"twice":               {`"version": "1.1.0"`, `"version": "1.0.0"`, "update dev x86_64 1.0.0 stands twice, or out of order"},
		"no migrations":       {`"to": "1.1.0"`, `"to": "1.2.0"`, "from dev x86_64 1.0.0 to dev x86_64 1.1.0: no migrations lead from datastore 1.0.0 to 1.1.0"},
		"migration backward":  {`"from": "1.0.0"`, `"from": "1.1.0"`, "migration 1.1.0 to 1.1.0: the version must go up"},
		"datastore goes down": {`"datastore": "1.0.0"`, `"datastore": "1.2.0"`, "older than 1.2.0"},
		"one name, two files": {`"target": "add-x",
          "size": 1`, `"target": "dev-x86_64-1.0.0-uki.efi",
          "size": 2`, "target dev-x86_64-1.0.0-uki.efi is named with different sizes or digests"},
		"maximum version": {`"datastore": "1.0.0"`, `"maxVersion": "1.0.0", "datastore": "1.0.0"`, "have different maximum versions"},
	} {
		text := strings.Replace(string(good), c.old, c.new, 1)
		if c.old == "" {
			text = string(good) + c.new
		}
		if text == string(good) {
			t.Errorf("%s: nothing to replace", name)
		}
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

func TestMigrationPath(t *testing.T) {
	t.Parallel()
	m := &Manifest{Migrations: []Migration{
		step("1.0.0", "1.1.0"), step("1.0.0", "1.3.0"), step("1.1.0", "1.2.0"), step("1.2.0", "1.4.0"), step("1.3.0", "1.4.0"), step("1.3.0", "1.5.0"),
	}}
	for _, c := range []struct{ from, to, want string }{
		{"1.0.0", "1.0.0", ""},
		{"1.0.0", "1.1.0", "1.0.0-1.1.0 "},
		{"1.0.0", "1.4.0", "1.0.0-1.3.0 1.3.0-1.4.0 "},
		// always going as high as possible would end at 1.3.0
		{"1.0.0", "1.2.0", "1.0.0-1.1.0 1.1.0-1.2.0 "},
		{"1.5.0", "1.0.0", "1.3.0-1.5.0 1.0.0-1.3.0 "},
	} {
		path, err := m.MigrationPath(v(c.from), v(c.to))
		got := ""
		for _, s := range path {
			got += fmt.Sprintf("%s-%s ", s.From, s.To)
		}
		if err != nil || got != c.want {
			t.Errorf("%s to %s: %s%v, want %s", c.from, c.to, got, err, c.want)
		}
	}
	for _, c := range [][2]string{{"1.4.0", "1.5.0"}, {"0.9.0", "1.0.0"}, {"2.0.0", "1.0.0"}} {
		if path, err := m.MigrationPath(v(c[0]), v(c[1])); err == nil {
			t.Errorf("%s to %s: %v", c[0], c[1], path)
		}
	}
}

func TestNext(t *testing.T) {
	t.Parallel()
	waved := release("1.2.0", "1.0.0")
	waved.Waves = Waves{0: start, 2048: at(2048 * time.Second)}
	limit := v("1.2.0")
	build := func(change func(m *Manifest)) *Manifest {
		m := &Manifest{Schema: 1, Updates: []Update{release("1.0.0", "1.0.0"), release("1.1.0", "1.0.0"), waved}}
		if change != nil {
			change(m)
		}
		return m
	}
	host := Host{Variant: "dev", Arch: "x86_64", Version: v("1.0.0"), Seed: 100}
	for name, c := range map[string]struct {
		m    *Manifest
		host func(h *Host)
		now  time.Time
		want string
	}{
		"before its time": {build(nil), nil, at(99 * time.Second), "1.1.0"},
		"at its time":     {build(nil), nil, at(100 * time.Second), "1.2.0"},
		"waves ignored":   {build(nil), func(h *Host) { h.IgnoreWaves = true }, at(0), "1.2.0"},
		"paused":          {build(func(m *Manifest) { m.Updates[2].PausedAt = &start }), func(h *Host) { h.IgnoreWaves = true }, at(time.Hour), "1.1.0"},
		"held back": {build(func(m *Manifest) {
			m.Updates = append(m.Updates, release("1.3.0", "1.0.0"))
			m.Updates[3].MaxVersion = &limit
		}), nil, at(time.Hour), "1.2.0"},
		"newest already":   {build(nil), func(h *Host) { h.Version = v("1.2.0") }, at(time.Hour), ""},
		"never downgrades": {build(nil), func(h *Host) { h.Version = v("9.0.0") }, at(time.Hour), ""},
		"other variant":    {build(nil), func(h *Host) { h.Variant = "prod" }, at(time.Hour), ""},
		"other arch":       {build(nil), func(h *Host) { h.Arch = "aarch64" }, at(time.Hour), ""},
	} {
		h := host
		if c.host != nil {
			c.host(&h)
		}
		got := ""
		if u := c.m.Next(h, c.now); u != nil {
			got = u.Version.String()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	good, err := example().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"schema":1,"updates":[],"migrations":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(data)
		if err != nil {
			return
		}
		once, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(once)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := again.Marshal()
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%v\n%s\n%s", err, once, twice)
		}
	})
}
