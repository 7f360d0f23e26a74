package registry

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	user     = "builder"
	password = "s3cret"
)

// askPassword is a registry that wants a user and a password.
func askPassword(t *testing.T) *server {
	s := newServer(t)
	s.before = func(w http.ResponseWriter, req *http.Request) bool {
		u, p, _ := req.BasicAuth()
		if u == user && p == password {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="cache"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	return s
}

// askToken is a registry that wants tokens: to those with the password it gives
// one for reading and writing, to others one for reading.
func askToken(t *testing.T) *server {
	s := newServer(t)
	s.before = func(w http.ResponseWriter, req *http.Request) bool {
		token := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
		reading := req.Method == http.MethodGet || req.Method == http.MethodHead
		switch {
		case req.URL.Path == "/token":
			token = "reader"
			if u, p, _ := req.BasicAuth(); u == user && p == password && strings.Contains(req.URL.Query().Get("scope"), "push") {
				token = "writer"
			}
			fmt.Fprintf(w, `{"token":%q}`, token)
		case token == "writer", token == "reader" && reading:
			return false
		case token == "":
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="cache"`, s.host()))
			w.WriteHeader(http.StatusUnauthorized)
		default:
			w.WriteHeader(http.StatusForbidden)
		}
		return true
	}
	return s
}

func TestAuth(t *testing.T) {
	auths := func(user, password string) func(host string) string {
		return func(host string) string {
			return fmt.Sprintf(`{"auths":{%q:{"username":%q,"password":%q}}}`, host, user, password)
		}
	}
	helper := func(name string) func(string) string {
		return func(host string) string { return fmt.Sprintf(`{"credHelpers":{%q:%q}}`, host, name) }
	}
	for _, tc := range []struct {
		name   string
		server func(*testing.T) *server
		config func(host string) string
		lookup error // after a push by somebody who may
		push   error
		warn   string
	}{
		{"password", askPassword, auths(user, password), nil, nil, ""},
		{"wrong password", askPassword, auths(user, "guess"), ErrDown, ErrDown, "refuses access"},
		{"no password", askPassword, func(string) string { return "{}" }, ErrDown, ErrDown, "refuses access"},
		{"helper", askPassword, helper("slipway-test"), nil, nil, ""},
		{"failing helper", askPassword, helper("slipway-broken"), ErrDown, ErrDown, "read credentials: "},
		{"absent helper", askPassword, helper("slipway-absent"), ErrDown, ErrDown, "docker-credential-slipway-absent"},
		{"hanging helper", askPassword, helper("slipway-hanging"), ErrDown, ErrDown, "no answer within 1s"},
		{"broken configuration", askPassword, func(string) string { return "{" }, ErrDown, ErrDown, "read credentials: "},
		{"token", askToken, helper("slipway-test"), nil, nil, ""},
		{"token for reading", askToken, func(string) string { return "{}" }, nil, ErrReadOnly, "takes no results"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			home, bin := t.TempDir(), t.TempDir()
			t.Setenv("HOME", home)
			t.Setenv("DOCKER_CONFIG", home)
			t.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
			for name, script := range map[string]string{
				"test":    fmt.Sprintf(`printf '{"ServerURL":"x","Username":"%s","Secret":"%s"}'`, user, password),
				"broken":  "echo the keyring is locked; exit 1",
				"hanging": fmt.Sprintf("while [ -d %s ]; do sleep 0.05; done; exit 1", bin), // until the test is over
			} {
				write(t, filepath.Join(bin, "docker-credential-slipway-"+name), []byte("#!/bin/sh\n"+script+"\n"))
				if err := os.Chmod(filepath.Join(bin, "docker-credential-slipway-"+name), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			s := tc.server(t)
			res := newResult(t, "packages/a", "one")
			s.put(t, res.key, res.manifest)
			write(t, filepath.Join(home, "config.json"), []byte(tc.config(s.host())))
			r, warned := open(t, s.host(), func(c *Config) {
				if tc.name == "hanging helper" {
					c.Timeout = time.Second
				}
			})
			is := func(what string, err, want error) {
				if !errors.Is(err, want) || want == nil && err != nil {
					t.Errorf("%s: got %v, want %v", what, err, want)
				}
			}
			_, err := r.Lookup(t.Context(), res.key)
			is("lookup", err, tc.lookup)
			other := newResult(t, "packages/b", "two")
			is("push", r.Push(t.Context(), other.manifest, other.open), tc.push)
			list := strings.Join(warned.get(), "\n")
			if !strings.Contains(list, tc.warn) || tc.warn == "" && list != "" || strings.Contains(list, "\n") {
				t.Errorf("warned %q, want once %q", list, tc.warn)
			}
			if strings.Contains(list, password) {
				t.Error("the password was told")
			}
		})
	}
}
