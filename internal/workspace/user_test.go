package workspace_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rogpeppe/go-internal/txtar"

	"slipway/internal/workspace"
)

func TestTeamCache(t *testing.T) {
	const shared = "[cache]\nref = \"r.example.com/team/cache\"\npublic-keys = [\"keys/team.pub\", \"/etc/team.pub\"]\n"
	for _, tc := range []struct {
		name      string
		workspace string // what is added to slipway.toml
		user      string // config.toml; none where it is empty
		env       string
		want      workspace.Cache // ROOT and HOME stand for the two folders
		ref       string          // place of Ref
	}{
		{name: "none", want: workspace.Cache{Read: true}, ref: "slipway.toml"},
		{
			name: "workspace", workspace: shared, ref: "slipway.toml:7:7",
			want: workspace.Cache{Ref: "r.example.com/team/cache", Read: true, PublicKeys: []string{"ROOT/keys/team.pub", "/etc/team.pub"}},
		},
		{
			name: "user alone", user: "[cache]\nref = \"u.example.com/x\"\nread = false\nwrite = true\ninsecure = true\nsign-key = \"my.key\"\npublic-keys = [\"my.pub\"]\n",
			want: workspace.Cache{Ref: "u.example.com/x", Write: true, Insecure: true, SignKey: "HOME/slipway/my.key", PublicKeys: []string{"HOME/slipway/my.pub"}},
			ref:  "HOME/slipway/config.toml:2:7",
		},
		{
			name: "both, key by key", workspace: shared + "read = false\nwrite = true\n", user: "[cache]\nwrite = false\nread = true\nsign-key = \"/k\"\n", ref: "slipway.toml:7:7",
			want: workspace.Cache{Ref: "r.example.com/team/cache", Read: true, SignKey: "/k", PublicKeys: []string{"ROOT/keys/team.pub", "/etc/team.pub"}},
		},
		{
			name: "no keys for a user", workspace: shared, user: "[cache]\npublic-keys = []\n", ref: "slipway.toml:7:7",
			want: workspace.Cache{Ref: "r.example.com/team/cache", Read: true},
		},
		{
			name: "environment", workspace: shared, user: "[cache]\nref = \"u.example.com/x\"\n", env: "e.example.com/y", ref: "$SLIPWAY_CACHE_REF",
			want: workspace.Cache{Ref: "e.example.com/y", Read: true, PublicKeys: []string{"ROOT/keys/team.pub", "/etc/team.pub"}},
		},
		{
			name: "off", workspace: shared, env: "off", ref: "$SLIPWAY_CACHE_REF",
			want: workspace.Cache{Read: true, PublicKeys: []string{"ROOT/keys/team.pub", "/etc/team.pub"}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			home := t.TempDir()
			t.Setenv("XDG_CONFIG_HOME", home)
			t.Setenv(workspace.EnvCacheRef, tc.env)
			ar := txtar.Parse([]byte(base))
			ar.Files[0].Data = append(ar.Files[0].Data, tc.workspace...)
			root := write(t, ar)
			if tc.user != "" {
				if err := os.Mkdir(filepath.Join(home, "slipway"), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(home, "slipway", workspace.UserFile), []byte(tc.user), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			ws, err := workspace.Load(root)
			if err != nil {
				t.Fatal(err)
			}
			u, err := workspace.LoadUser()
			if err != nil {
				t.Fatal(err)
			}
			got := ws.TeamCache(u)
			names := strings.NewReplacer("ROOT", root, "HOME", home)
			tc.want.SignKey = names.Replace(tc.want.SignKey)
			for i, path := range tc.want.PublicKeys {
				tc.want.PublicKeys[i] = names.Replace(path)
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreFields(workspace.Cache{}, "Places"), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if place := got.Places["ref"].String(); place != names.Replace(tc.ref) {
				t.Errorf("Ref is set at %s, want %s", place, names.Replace(tc.ref))
			}
		})
	}
}

func TestUserFindings(t *testing.T) {
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	path := filepath.Join(home, "slipway", workspace.UserFile)
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("[cache]\nref = \"https://r.example.com/x\"\nsing-key = \"k\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := workspace.LoadUser()
	want := path + `:2:7: "cache.ref" is not a repository of a registry: "https://r.example.com/x" (a host and a path without tag, such as registry.example.com/team/slipway-cache)` + "\n" +
		path + `:3:1: unknown key "cache.sing-key" (did you mean "sign-key"?)`
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestUserSigning(t *testing.T) {
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	dir := filepath.Join(home, "slipway")
	path := filepath.Join(dir, workspace.UserFile)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		text, err string
		want      workspace.Signing
	}{
		{"", "", workspace.Signing{}},
		{"[signing]\nsecure-boot-key = \"keys/db.key\"\nsecure-boot-cert = \"/etc/db.crt\"\n", "", workspace.Signing{SecureBootKey: filepath.Join(dir, "keys/db.key"), SecureBootCert: "/etc/db.crt"}},
		{
			"[signing]\nsecure-boot-key = \"pkcs11:object=db\"\nsecure-boot-cert = \"db.crt\"\nverity-key = \"v.key\"\nverity-cert = \"v.crt\"\n", "",
			workspace.Signing{SecureBootKey: "pkcs11:object=db", SecureBootCert: filepath.Join(dir, "db.crt"), VerityKey: filepath.Join(dir, "v.key"), VerityCert: filepath.Join(dir, "v.crt")},
		},
		{"[signing]\nverity-cert = \"v.crt\"\n", path + `:2:15: "signing.verity-key" is missing (key and certificate go together; slipway keys init makes them)`, workspace.Signing{}},
		{"[signing]\nsecure-boot-key = \"db.key\"\n", path + `:2:19: "signing.secure-boot-cert" is missing (key and certificate go together; slipway keys init makes them)`, workspace.Signing{}},
		{"[signing]\nsecure-boot-cert = \"db.crt\"\n", path + `:2:20: "signing.secure-boot-key" is missing (key and certificate go together; slipway keys init makes them)`, workspace.Signing{}},
	} {
		if err := os.WriteFile(path, []byte(tc.text), 0o644); err != nil {
			t.Fatal(err)
		}
		u, err := workspace.LoadUser()
		if tc.err != "" {
			if err == nil || err.Error() != tc.err {
				t.Errorf("got %v\nwant %s", err, tc.err)
			}
			continue
		}
		if err != nil || u.Signing != tc.want {
			t.Errorf("%v, want %v (%v)", u.Signing, tc.want, err)
		}
	}
}
