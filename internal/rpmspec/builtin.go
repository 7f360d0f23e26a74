package rpmspec

import (
	"errors"
	"fmt"
	"strings"
)

// builtin is a macro that rpm implements in code (rpm 4.18's set). What asks
// the machine it runs on is unknown here: only the build environment can tell.
type builtin struct {
	args int  // 0: takes none, 1: needs some, -1: either
	raw  bool // its argument is not expanded first
	run  func(x *expander, dst []byte, args []string) ([]byte, error)
	// free handles a raw builtin written without braces: it is given the rest
	// of the text and says how much of it it used up.
	free func(x *expander, dst []byte, rest string) ([]byte, int, error)
}

func builtins() map[string]*builtin {
	text := func(f func(string) string) *builtin {
		return &builtin{args: 1, run: func(_ *expander, dst []byte, args []string) ([]byte, error) {
			return append(dst, f(args[0])...), nil
		}}
	}
	silent := func(args int) *builtin {
		return &builtin{args: args, run: func(_ *expander, dst []byte, _ []string) ([]byte, error) { return dst, nil }}
	}
	machine := func(args int) *builtin {
		return &builtin{args: args, run: func(_ *expander, dst []byte, _ []string) ([]byte, error) {
			return append(dst, unknown), nil
		}}
	}
	numbered := func(prefix string) *builtin {
		return &builtin{args: 1, run: func(x *expander, dst []byte, args []string) ([]byte, error) {
			return x.expand(dst, prefix+args[0])
		}}
	}
	lua := machine(1)
	lua.raw = true
	lua.free = func(_ *expander, dst []byte, _ string) ([]byte, int, error) {
		return append(dst, unknown), 0, nil
	}
	verbose := &builtin{args: -1, raw: true, run: func(_ *expander, dst []byte, args []string) ([]byte, error) {
		if len(args) > 0 {
			return dst, nil // %{verbose:X} is X in a verbose rpm only
		}
		return append(dst, '0'), nil
	}, free: func(_ *expander, dst []byte, _ string) ([]byte, int, error) { return append(dst, '0'), 0, nil }}
	dnl := silent(1)
	dnl.raw = true
	dnl.free = func(_ *expander, dst []byte, rest string) ([]byte, int, error) {
		if i := strings.IndexAny(rest, "\r\n"); i >= 0 {
			return dst, i + 1, nil
		}
		return dst, len(rest), nil
	}

	return map[string]*builtin{
		"S":          numbered("%SOURCE"),
		"P":          numbered("%PATCH"),
		"basename":   text(func(s string) string { return s[strings.LastIndexByte(s, '/')+1:] }),
		"dirname":    text(dirname),
		"suffix":     text(suffix),
		"shrink":     text(func(s string) string { return strings.Join(strings.FieldsFunc(s, isSpaceRune), " ") }),
		"shescape":   text(func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }),
		"url2path":   text(urlPath),
		"u2p":        text(urlPath),
		"dump":       silent(0),
		"trace":      silent(0),
		"echo":       silent(1),
		"warn":       silent(1),
		"getncpus":   machine(0),
		"getconfdir": machine(0),
		"getenv":     machine(1),
		"exists":     machine(1),
		"verbose":    verbose,
		"lua":        lua,
		"dnl":        dnl,
		"define":     defining("%define", false),
		"global":     defining("%global", true),
		"error": {args: 1, run: func(_ *expander, dst []byte, args []string) ([]byte, error) {
			return dst, fmt.Errorf("%%error: %s", strings.TrimSpace(known(args[0])))
		}},
		"expand": {args: 1, run: func(x *expander, dst []byte, args []string) ([]byte, error) {
			return x.expand(dst, args[0])
		}},
		"expr": {args: 1, run: func(_ *expander, dst []byte, args []string) ([]byte, error) {
			v, err := evaluate(args[0], nil)
			if errors.Is(err, ErrNeedsRPM) {
				return append(dst, unknown), nil
			}
			if err != nil {
				return dst, err
			}
			return append(dst, v.String()...), nil
		}},
		"load": {args: 1, run: func(x *expander, dst []byte, args []string) ([]byte, error) {
			if x.load == nil {
				return dst, errors.New("%load is only available in a spec")
			}
			if strings.IndexByte(args[0], unknown) >= 0 {
				return append(dst, unknown), nil
			}
			return dst, x.load(args[0])
		}},
		"macrobody": {args: 1, run: func(x *expander, dst []byte, args []string) ([]byte, error) {
			e := x.m.lookup(args[0])
			if e == nil {
				return dst, fmt.Errorf("%%macrobody: no macro %q", known(args[0]))
			}
			return append(dst, e.body...), nil
		}},
		"quote": {args: 1, run: func(_ *expander, dst []byte, args []string) ([]byte, error) {
			for i, a := range args {
				if i > 0 {
					dst = append(dst, ' ')
				}
				dst = append(dst, quoteMark)
				dst = append(dst, a...)
				dst = append(dst, quoteMark)
			}
			return dst, nil
		}},
		"uncompress": {args: 1, run: func(x *expander, dst []byte, args []string) ([]byte, error) {
			dst, err := x.expand(dst, "%__rpmuncompress ")
			return append(dst, args[0]...), err
		}},
		"undefine": {args: 1, run: func(x *expander, dst []byte, args []string) ([]byte, error) {
			if err := x.m.checkName(args[0], "%undefine"); err != nil {
				return dst, err
			}
			x.m.pop(args[0])
			return dst, nil
		}},
	}
}

// defining is %define or, when it expands the body at once, %global.
func defining(by string, global bool) *builtin {
	define := func(x *expander, rest string, free bool) (int, error) {
		d, n, err := parseDefinition(rest, 0, free)
		if err != nil {
			return n, err
		}
		level := x.level
		if err := x.m.checkName(d.name, by); err != nil {
			return n, err
		}
		if err := d.complete(); err != nil {
			return n, err
		}
		if global {
			level = 0
			if d.body, err = x.expandString(d.body); err != nil {
				return n, fmt.Errorf("%%global %s: %w", d.name, err)
			}
		}
		if level > 0 {
			x.frame.defined = append(x.frame.defined, d.name)
		}
		return n, x.m.define(d, level, by)
	}
	return &builtin{args: 1, raw: true,
		run: func(x *expander, dst []byte, args []string) ([]byte, error) {
			_, err := define(x, args[0], false)
			return dst, err
		},
		free: func(x *expander, dst []byte, rest string) ([]byte, int, error) {
			n, err := define(x, rest, true)
			return dst, n, err
		},
	}
}

func dirname(s string) string {
	if i := strings.LastIndexByte(s, '/'); i >= 0 {
		return s[:i]
	}
	return s
}

func suffix(s string) string {
	if i := strings.LastIndexByte(s, '.'); i >= 0 {
		return s[i+1:]
	}
	return ""
}

// urlPath is the path of a URL, or s itself when it is none.
func urlPath(s string) string {
	i := strings.Index(s, "://")
	if i < 0 {
		if s == "" {
			return "/"
		}
		return s
	}
	rest := s[i+3:]
	if j := strings.IndexByte(rest, '/'); j >= 0 {
		return rest[j:]
	}
	return "/"
}

func isSpaceRune(r rune) bool { return r < 0x80 && isSpace(byte(r)) }
