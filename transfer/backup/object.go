package backup

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/store"
)

// ErrDamaged means that something of a backup is not what was written.
var ErrDamaged = errors.New("damaged")

// bodyPath is where a body is: bodies/ab/abcd....zst.
func (r *Repository) bodyPath(h store.Hash) string {
	name := hex.EncodeToString(h[:])
	return filepath.Join(r.dir, bodiesName, name[:2], name+packed)
}

// Has reports whether a body is there, by its name and that it is not empty. One
// that was written and not named yet is not.
func (r *Repository) Has(h store.Hash) bool {
	f, err := r.read(r.bodyPath(h))
	if err != nil {
		return false
	}
	defer f.Close()
	n, err := f.Size()
	return err == nil && n > 0
}

// keeps is Has for who names the body anew: syncNames then makes its name
// durable, for whoever wrote it may have been killed before.
func (r *Repository) keeps(h store.Hash) (bool, error) {
	if r.isComing(r.bodyPath(h)) {
		return true, nil
	}
	if !r.Has(h) {
		return false, nil
	}
	dir := filepath.Dir(r.bodyPath(h))
	r.soil(dir)
	return true, r.makeDir(dir)
}

var encoders = sync.Pool{New: func() any {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true), zstd.WithWindowSize(1<<20))
	if err != nil {
		panic(err) // the options are constant
	}
	return e
}}

// decoderMemory bounds what reading takes, whatever a damaged file says.
const decoderMemory = 64 << 20

var decoders = sync.Pool{New: func() any {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(decoderMemory), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic(err) // the options are constant
	}
	return d
}}

// WriteBody writes a body. It has its name, durable, behind the next syncNames.
// It returns how many octets that took. ErrDamaged when r is not what ref says;
// an error of r as it is.
func (r *Repository) WriteBody(ref store.Ref, from io.Reader) (written int64, err error) {
	name := r.bodyPath(ref.Hash)
	w, err := r.newObject(name + unfinished)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(w, from)
	if err == nil && (n != ref.Octets || w.sum() != ref.Hash) {
		err = fmt.Errorf("body %x as the store sent it: %w", ref.Hash, ErrDamaged)
	}
	return w.finish(err, name)
}

// object is a file that is being written. Its content is compressed.
type object struct {
	repository *Repository
	name       string
	file       fsx.File
	offset     *io.OffsetWriter
	buffer     *bufio.Writer
	encoder    *zstd.Encoder
	hash       hash.Hash
}

func (r *Repository) newObject(name string) (*object, error) {
	f, err := r.create(name)
	if err != nil {
		return nil, err
	}
	w := &object{repository: r, name: name, file: f, offset: io.NewOffsetWriter(f, 0), hash: sha256.New()}
	w.buffer = bufio.NewWriterSize(w.offset, 64<<10)
	w.encoder = encoders.Get().(*zstd.Encoder)
	w.encoder.Reset(w.buffer)
	return w, nil
}

func (w *object) Write(p []byte) (int, error) {
	w.hash.Write(p)
	return w.encoder.Write(p)
}

// sum is the SHA-256 of what was written.
func (w *object) sum() (h store.Hash) {
	copy(h[:], w.hash.Sum(nil))
	return h
}

// finish ends the content, which gets its name with others, when it is durable; with
// an error it is removed instead.
func (w *object) finish(err error, name string) (written int64, _ error) {
	if closed := w.encoder.Close(); err == nil {
		err = closed
	}
	w.encoder.Reset(nil)
	encoders.Put(w.encoder)
	if err == nil {
		err = w.buffer.Flush()
	}
	written, _ = w.offset.Seek(0, io.SeekCurrent) // it only tells
	if err != nil {
		_ = w.file.Close()
		_ = w.repository.fsys.Remove(w.name) // prune does, if this does not
		return 0, err
	}
	return written, w.repository.await(nameless{w.file, w.name, name})
}

// objectReader reads what is in an object. At its end, and only there, it
// tells whether that is what the name says.
type objectReader struct {
	file    readable
	decoder *zstd.Decoder
	hash    hash.Hash
	want    store.Hash
	octets  int64 // what it should have; -1 for any
	read    int64
	err     error
}

// openObject opens an object. Errors are fs.ErrNotExist, ErrDamaged, or the
// disk's.
func (r *Repository) openObject(name string, want store.Hash, octets int64) (*objectReader, error) {
	f, err := r.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w: it is missing", name, ErrDamaged)
	} else if err != nil {
		return nil, err
	}
	n, err := f.Size()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	d := decoders.Get().(*zstd.Decoder)
	o := &objectReader{file: f, decoder: d, hash: sha256.New(), want: want, octets: octets}
	if err := d.Reset(bufio.NewReaderSize(io.NewSectionReader(f, 0, n), 64<<10)); err != nil {
		o.err = fmt.Errorf("%s: %w: %w", name, ErrDamaged, err)
	}
	return o, nil
}

// Body opens a body. What it reads is compared with its checksum at the end.
func (r *Repository) Body(ref store.Ref) (io.ReadCloser, error) {
	return r.openObject(r.bodyPath(ref.Hash), ref.Hash, ref.Octets)
}

func (o *objectReader) Read(p []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.decoder.Read(p)
	o.hash.Write(p[:n])
	o.read += int64(n)
	switch {
	case o.octets >= 0 && o.read > o.octets:
		o.err = fmt.Errorf("%x: %w: it is longer than it was", o.want, ErrDamaged)
	case err == io.EOF:
		var sum store.Hash
		o.hash.Sum(sum[:0])
		if o.err = io.EOF; sum != o.want || o.octets >= 0 && o.read != o.octets {
			o.err = fmt.Errorf("%x: %w: its checksum is another", o.want, ErrDamaged)
		}
	case err != nil:
		o.err = fmt.Errorf("%x: %w: %w", o.want, ErrDamaged, err)
	}
	if o.err != nil && o.err != io.EOF {
		return 0, o.err
	}
	return n, o.err
}

// Close gives the file back.
func (o *objectReader) Close() error {
	_ = o.decoder.Reset(nil) // it cannot fail without a reader
	decoders.Put(o.decoder)
	return o.file.Close()
}
