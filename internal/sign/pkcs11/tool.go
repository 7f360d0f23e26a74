package pkcs11

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// tool is the program of OpenSC that speaks with the library of a token.
const tool = "pkcs11-tool"

// EnvPIN names the environment variable with the PIN of a token whose URI has no
// pin-source.
const EnvPIN = "SLIPWAY_PKCS11_PIN"

// slot is a token as pkcs11-tool --list-token-slots shows it.
type slot struct {
	id                                 string // as in "0x2f"
	label, manufacturer, model, serial string
}

func (s slot) String() string {
	return fmt.Sprintf("token=%s (%s, serial=%s)", s.label, s.model, s.serial)
}

// object is a key or certificate as pkcs11-tool --list-objects shows it.
type object struct {
	kind  string // "Public Key Object; RSA 2048 bits"
	label string
	id    string // bytes
}

func (o object) String() string {
	_, kind, _ := strings.Cut(o.kind, "; ")
	var id strings.Builder
	for _, b := range []byte(o.id) {
		fmt.Fprintf(&id, "%%%02x", b)
	}
	return fmt.Sprintf("object=%s;id=%s (%s)", o.label, id.String(), strings.Join(strings.Fields(kind), " "))
}

// compare orders objects by what URIs name them by.
func compare(a, b object) int {
	return cmp.Or(cmp.Compare(a.label, b.label), cmp.Compare(a.id, b.id))
}

var (
	slotLine   = regexp.MustCompile(`^Slot [0-9]+ \((0x[0-9a-fA-F]+)\):`)
	objectLine = regexp.MustCompile(`^([A-Z][A-Za-z0-9 ]* Object; .*)$`)
	fieldLine  = regexp.MustCompile(`^\s+([A-Za-z][A-Za-z /]*?)\s*:\s*(.*)$`)
)

// parseSlots reads what --list-token-slots prints. Slots whose token has no label
// are left out: nobody has made it ready for use.
func parseSlots(text string) (slots []slot) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if m := slotLine.FindStringSubmatch(line); m != nil {
			slots = append(slots, slot{id: m[1]})
			continue
		}
		m := fieldLine.FindStringSubmatch(line)
		if m == nil || len(slots) == 0 {
			continue
		}
		s := &slots[len(slots)-1]
		for name, to := range map[string]*string{"token label": &s.label, "token manufacturer": &s.manufacturer, "token model": &s.model, "serial num": &s.serial} {
			if m[1] == name && *to == "" {
				*to = strings.TrimRight(m[2], " ")
			}
		}
	}
	return slices.DeleteFunc(slots, func(s slot) bool { return s.label == "" })
}

// parseObjects reads what --list-objects prints.
func parseObjects(text string) (objects []object) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if m := objectLine.FindStringSubmatch(line); m != nil {
			objects = append(objects, object{kind: m[1]})
			continue
		}
		m := fieldLine.FindStringSubmatch(line)
		if m == nil || len(objects) == 0 {
			continue
		}
		o := &objects[len(objects)-1]
		switch {
		case m[1] == "label" && o.label == "":
			o.label = m[2]
		case m[1] == "ID" && o.id == "":
			if id, err := hex.DecodeString(strings.TrimSpace(m[2])); err == nil {
				o.id = string(id)
			}
		}
	}
	return objects
}

// token runs pkcs11-tool for one URI.
type token struct{ uri *URI }

// run runs pkcs11-tool on the module, and gives what it prints and what it writes
// into the file that --output-file names in front of input, which --input-file
// names. A PIN goes through the environment, which other users cannot read.
func (t token) run(ctx context.Context, pin string, input []byte, args ...string) (printed, output []byte, err error) {
	dir, err := os.MkdirTemp("", "slipway-pkcs11-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := os.WriteFile(in, input, 0o600); err != nil {
		return nil, nil, err
	}
	args = append([]string{"--module", t.uri.ModulePath}, args...)
	if input != nil {
		args = append(args, "--input-file", in)
	}
	if !strings.HasPrefix(args[2], "--list") {
		args = append(args, "--output-file", out)
	}
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if pin != "" {
		cmd.Args = append(cmd.Args, "--login", "--pin", "env:"+EnvPIN)
		cmd.Env = append(cmd.Env, EnvPIN+"="+pin)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return nil, nil, ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return nil, nil, fmt.Errorf("the program %s, which speaks with tokens, is not installed: install OpenSC (Debian: apt-get install opensc)", tool)
	case errors.As(err, &exit):
		return nil, nil, t.explain(stderr.String())
	case err != nil:
		return nil, nil, err
	}
	output, err = os.ReadFile(out)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return stdout.Bytes(), output, err
}

// ErrPIN is wrapped by errors about a PIN that the token did not take.
var ErrPIN = errors.New("the token does not take the PIN")

// errKind says that a key cannot be used. pkcs11-tool shows Ed25519 keys in a form
// of its own, and cannot sign messages of more than 1024 bytes with them.
var errKind = errors.New("the key cannot be used: keys in tokens are RSA or ECDSA on P-256")

var errNoPrivate = errors.New("the token has the public key, but not the private one, or does not let this user see it")

// explain makes an error of what pkcs11-tool printed. The words are those of the
// CK_RV values of PKCS #11.
func (t token) explain(stderr string) error {
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(stderr, w) })
	}
	switch {
	case has("CKR_PIN_LOCKED"):
		return fmt.Errorf("%w: it is locked after too many wrong ones: unlock it with the tools of the token", ErrPIN)
	case has("CKR_PIN_INCORRECT", "CKR_PIN_INVALID", "CKR_PIN_LEN_RANGE"):
		return fmt.Errorf("%w in %s: it is wrong; it is not tried again, since tokens lock after a few wrong ones", ErrPIN, t.pinPlace())
	case has("CKR_USER_PIN_NOT_INITIALIZED"):
		return fmt.Errorf("%w: it has none yet: set one with %s --init-pin", ErrPIN, tool)
	case has("Failed to load pkcs11 module", "sc_dlopen failed", "Module ID does not match"):
		return fmt.Errorf("%s is not a PKCS #11 library that can be loaded", t.uri.ModulePath)
	case has("CKR_KEY_FUNCTION_NOT_PERMITTED", "CKR_KEY_TYPE_INCONSISTENT"):
		return errors.New("the key must not be used for signatures of this kind: make one with --usage-sign")
	case has("CKR_MECHANISM_INVALID", "CKR_MECHANISM_PARAM_INVALID", "does not support"):
		return fmt.Errorf("the token cannot make signatures of this kind: see %s --module %s --list-mechanisms", tool, t.uri.ModulePath)
	case has("cannot create EVP_PKEY", "not (yet) supported"):
		return errKind
	case has("Private key not found"):
		return errNoPrivate
	}
	for line := range strings.Lines(stderr) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "error: "); ok {
			return fmt.Errorf("%s: %s", tool, rest)
		}
	}
	return fmt.Errorf("%s failed: %s", tool, strings.TrimSpace(stderr))
}

func (t token) pinPlace() string {
	if t.uri.PINSource != "" {
		return t.uri.PINSource
	}
	return "$" + EnvPIN
}

// pin reads the PIN anew each time, so that it stays nowhere.
func (t token) pin() (string, error) {
	text := os.Getenv(EnvPIN)
	if t.uri.PINSource != "" {
		data, err := os.ReadFile(t.uri.PINSource)
		if err != nil {
			return "", fmt.Errorf("PIN: %w", err)
		}
		text = strings.TrimRight(string(data), "\r\n")
	}
	switch {
	case text == "" && t.uri.PINSource != "":
		return "", fmt.Errorf("PIN: %s is empty", t.uri.PINSource)
	case text == "":
		return "", fmt.Errorf("the token wants a PIN: name a file that holds it with &pin-source=file:/…, or put it into the environment variable %s", EnvPIN)
	case strings.ContainsRune(text, 0):
		return "", fmt.Errorf("PIN in %s: there is a byte zero in it", t.pinPlace())
	}
	return text, nil
}

// refused are the tokens that did not take their PIN, by module and serial
// number, with the error: each further try would bring them closer to locking.
// The mutex also keeps logins one after the other, so that a wrong PIN counts
// once.
var refused = struct {
	sync.Mutex
	by map[string]error
}{by: map[string]error{}}

// login runs pkcs11-tool with the PIN.
func (t token) login(ctx context.Context, s slot, input []byte, args ...string) (printed, output []byte, err error) {
	pin, err := t.pin()
	if err != nil {
		return nil, nil, err
	}
	refused.Lock()
	defer refused.Unlock()
	by := t.uri.ModulePath + "\x00" + s.serial + "\x00" + s.label
	if err := refused.by[by]; err != nil {
		return nil, nil, err
	}
	printed, output, err = t.run(ctx, pin, input, args...)
	if errors.Is(err, ErrPIN) {
		refused.by[by] = err
	}
	return printed, output, err
}

// slot finds the token that the URI names.
func (t token) slot(ctx context.Context) (slot, error) {
	if _, err := os.Stat(t.uri.ModulePath); err != nil {
		return slot{}, fmt.Errorf("module-path: %w: install the library of the token, or correct the path", err)
	}
	printed, _, err := t.run(ctx, "", nil, "--list-token-slots")
	if err != nil {
		return slot{}, err
	}
	all := parseSlots(string(printed))
	found := slices.DeleteFunc(slices.Clone(all), func(s slot) bool { return !t.uri.matches(s) })
	switch {
	case len(all) == 0:
		return slot{}, fmt.Errorf("%s shows no token: plug it in, or make it ready with %s --init-token", t.uri.ModulePath, tool)
	case len(found) == 0:
		return slot{}, fmt.Errorf("no such token; there is %s", list(all))
	case len(found) > 1:
		return slot{}, fmt.Errorf("%d tokens fit: add serial= to choose one of %s", len(found), list(found))
	}
	return found[0], nil
}

func (u *URI) matches(s slot) bool {
	if u.SlotID != "" {
		var id, want uint64
		_, errA := fmt.Sscanf(s.id, "0x%x", &id)
		_, errB := fmt.Sscanf(u.SlotID, "%d", &want)
		if errA != nil || errB != nil || id != want {
			return false
		}
	}
	for _, pair := range [][2]string{{u.Token, s.label}, {u.Manufacturer, s.manufacturer}, {u.Model, s.model}, {u.Serial, s.serial}} {
		if pair[0] != "" && strings.TrimRight(pair[0], " ") != pair[1] {
			return false
		}
	}
	return true
}

// objects lists the objects of a type: pubkey, cert or privkey.
func (t token) objects(ctx context.Context, s slot, kind string, login bool) ([]object, error) {
	args := []string{"--list-objects", "--type", kind, "--slot", s.id}
	var printed []byte
	var err error
	if login {
		printed, _, err = t.login(ctx, s, nil, args...)
	} else {
		printed, _, err = t.run(ctx, "", nil, args...)
	}
	return parseObjects(string(printed)), err
}

func (u *URI) matchesObject(o object) bool {
	return (u.Object == "" || u.Object == o.label) && (u.ID == "" || u.ID == o.id)
}

// arguments choose an object.
func (o object) arguments() []string {
	if o.id != "" {
		return []string{"--id", hex.EncodeToString([]byte(o.id))}
	}
	return []string{"--label", o.label}
}

func list[T fmt.Stringer](items []T) string {
	var out []string
	for _, i := range items {
		out = append(out, i.String())
	}
	return sorted(out)
}

func sorted(list []string) string {
	slices.Sort(list)
	return strings.Join(list, ", ")
}
