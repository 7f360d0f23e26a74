// Package migration is what programs are made of that carry the settings of a
// machine from one format version to the next, and back. Such a program is
//
//	func main() {
//		migration.Main(migration.Add("settings.host.domain", "local"))
//	}
//
// Going back undoes the steps in reverse order. Nothing is lost on the way: what
// one version does not know is put aside, and is there again when the machine
// returns to the version that does.
package migration

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"dinghy/internal/datastore"
)

// aside is the folder of a datastore for what its version does not know.
const aside = "aside"

// Data is a datastore on its way to another version.
type Data struct{ live, aside datastore.Tree }

// Get reads the value of a key into to, which is as for json.Unmarshal, and
// tells whether it has one. Keys are segments with dots between them; a segment
// with a dot stands in double quotes: settings.hosts."a.b".
func (d *Data) Get(key string, to any) (bool, error) { return d.live.Get(key, to) }

// Set gives a key a value, which is written as by json.Marshal.
func (d *Data) Set(key string, value any) error { return d.live.Set(key, value) }

// Has tells whether a key has a value, or keys below it have.
func (d *Data) Has(key string) (bool, error) { return d.live.Has(key) }

// Aside puts aside what a key has, with all keys below.
func (d *Data) Aside(key string) error {
	_, err := d.live.Move(key, d.aside, key)
	return err
}

// Restore brings back what was put aside, and tells whether there was something.
func (d *Data) Restore(key string) (bool, error) { return d.aside.Move(key, d.live, key) }

// Step is a change of the settings that can be undone.
type Step interface {
	Forward(*Data) error
	Backward(*Data) error
}

// Func is a step from two functions.
type Func struct{ To, Back func(*Data) error }

// Forward calls To.
func (f Func) Forward(d *Data) error { return f.To(d) }

// Backward calls Back.
func (f Func) Backward(d *Data) error { return f.Back(d) }

// Add is a new setting. It gets the value that it had before the machine went
// back to a version without it, or else this one; one that is there already stays.
func Add(key string, value any) Step {
	return Func{
		func(d *Data) error {
			if has, err := d.Has(key); has || err != nil {
				return err
			}
			if restored, err := d.Restore(key); restored || err != nil {
				return err
			}
			return d.Set(key, value)
		},
		func(d *Data) error { return d.Aside(key) },
	}
}

// Remove is a setting, or all below a key, that no longer exists.
func Remove(key string) Step {
	return Func{
		func(d *Data) error { return d.Aside(key) },
		func(d *Data) error {
			_, err := d.Restore(key)
			return err
		},
	}
}

// Rename is another key for a setting, or for all below a key. It fails where
// both have values, since one of them would be lost.
func Rename(from, to string) Step {
	move := func(d *Data, from, to string) error {
		has, err := d.Has(from)
		if !has || err != nil {
			return err
		}
		if taken, err := d.Has(to); taken || err != nil {
			return errors.Join(err, fmt.Errorf("%s cannot become %s, which has a value already", from, to))
		}
		_, err = d.live.Move(from, d.live, to)
		return err
	}
	return Func{
		func(d *Data) error { return move(d, from, to) },
		func(d *Data) error { return move(d, to, from) },
	}
}

// ReplacePrefix exchanges the beginning of a string that is the value of a key,
// where it begins so.
func ReplacePrefix(key, from, to string) Step {
	replace := func(d *Data, from, to string) error {
		var value any
		has, err := d.Get(key, &value)
		if !has || err != nil {
			return err
		}
		text, ok := value.(string)
		if !ok {
			return fmt.Errorf("%s is not a string", key)
		}
		if rest, ok := strings.CutPrefix(text, from); ok {
			return d.Set(key, to+rest)
		}
		return nil
	}
	return Func{
		func(d *Data) error { return replace(d, from, to) },
		func(d *Data) error { return replace(d, to, from) },
	}
}

// Main runs the steps as the command line says and ends the program:
//
//	program --source DIR --target DIR --forward|--backward
func Main(steps ...Step) {
	if err := Run(os.Args[1:], steps...); err != nil {
		fmt.Fprintln(os.Stderr, filepath.Base(os.Args[0])+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Run is Main without its end. The source stays as it is; the target must be
// an empty folder.
func Run(args []string, steps ...Step) error {
	f := flag.NewFlagSet("migration", flag.ContinueOnError)
	source := f.String("source", "", "datastore to read")
	target := f.String("target", "", "empty folder for the new datastore")
	forward := f.Bool("forward", false, "go to the newer version")
	backward := f.Bool("backward", false, "go to the older version")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *source == "" || *target == "" || *forward == *backward || f.NArg() > 0 {
		return errors.New("want --source DIR --target DIR and either --forward or --backward")
	}
	entries, err := os.ReadDir(*target)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty", *target)
	}
	if err := datastore.Copy(*source, *target); err != nil {
		return err
	}
	d := &Data{datastore.Tree(filepath.Join(*target, datastore.Live)), datastore.Tree(filepath.Join(*target, aside))}
	if *forward {
		for _, s := range steps {
			if err := s.Forward(d); err != nil {
				return err
			}
		}
		return nil
	}
	for _, s := range slices.Backward(steps) {
		if err := s.Backward(d); err != nil {
			return err
		}
	}
	return nil
}
