package rpm

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"

	"github.com/sassoftware/go-rpmutils"
)

// File is a file of an RPM.
type File struct {
	Path string      // absolute
	Mode fs.FileMode // type and permissions
	Size int64       // bytes; of a regular file
}

// errLink is what reading a file gives that is a link to a later one.
var errLink = errors.New("it is a hard link")

// Files calls take for every file of the binary RPM at path, in the order of its
// payload, which is that of the paths. The content can be read until take
// returns; an error of take ends Files. Digests of the payload are not checked.
func Files(path string, take func(File, io.Reader) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := files(f, take); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func files(r io.Reader, take func(File, io.Reader) error) (err error) {
	in := bufio.NewReader(r)
	data, err := headers(in)
	if err != nil {
		return err
	}
	// as in Read
	defer func() {
		if p := recover(); p != nil {
			re, ok := p.(runtime.Error)
			if !ok {
				panic(p)
			}
			err = fmt.Errorf("the RPM is damaged: %w", re)
		}
	}()
	rpm, err := rpmutils.ReadRpm(io.MultiReader(bytes.NewReader(data), in))
	if err != nil {
		return fmt.Errorf("the RPM's header cannot be read: %w", err)
	}
	if !rpm.Header.HasTag(rpmutils.BASENAMES) {
		return nil
	}
	list, err := rpm.Header.GetFiles()
	if err != nil {
		return fmt.Errorf("the RPM's header cannot be read: %w", err)
	}
	left := map[string]bool{} // to be found in the payload
	for _, info := range list {
		if info.Flags()&rpmutils.RPMFILE_GHOST == 0 {
			left[info.Name()] = true
		}
	}
	payload, err := rpm.PayloadReaderExtended()
	if err != nil {
		return fmt.Errorf("the RPM's payload cannot be read: %w", err)
	}
	for {
		info, err := payload.Next()
		if errors.Is(err, io.EOF) && len(left) == 0 {
			return nil
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("the RPM's payload cannot be read: %w", err)
		}
		delete(left, info.Name())
		f := File{info.Name(), mode(info.Mode()), info.Size()}
		var content io.Reader = payload
		switch {
		case payload.IsLink():
			content = failing{errLink}
		case f.Mode.IsRegular():
			content = &whole{payload, f.Size}
		}
		if err := take(f, content); err != nil {
			return err
		}
	}
}

// mode turns the mode of stat(2) into Go's, without the bits beyond permissions.
func mode(m int) fs.FileMode {
	types := map[int]fs.FileMode{0o100000: 0, 0o040000: fs.ModeDir, 0o120000: fs.ModeSymlink}
	t, ok := types[m&0o170000]
	if !ok {
		t = fs.ModeIrregular
	}
	return t | fs.FileMode(m&0o777)
}

// whole is a reader that must have some more bytes.
type whole struct {
	r    io.Reader
	left int64
}

func (w *whole) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if w.left -= int64(n); errors.Is(err, io.EOF) && w.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// failing is a reader that has nothing but an error.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
