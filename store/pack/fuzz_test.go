package pack

import (
	"bytes"
	"testing"

	"github.com/postern-mail/postern/internal/fsx/fsxtest"
	"github.com/postern-mail/postern/store"
)

// FuzzRecord reads whatever a pack may hold as a record: what comes out is what
// went in, or an error.
func FuzzRecord(f *testing.F) {
	whole := append(make([]byte, recordHeader), "a piece of a body"...)
	putRecordHeader(whole)
	f.Add(whole, int64(0), int64(17))
	f.Add(append([]byte("0123456789abcdef"), whole...), int64(16), int64(17))
	f.Add(whole[:20], int64(0), int64(17))
	f.Add(whole, int64(0), int64(16))
	f.Add([]byte("PR01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), int64(0), int64(0))
	f.Add([]byte{}, int64(-1), int64(1))
	f.Fuzz(func(t *testing.T, content []byte, offset, octets int64) {
		if offset < 0 || offset > maxOffset || octets < 1 || octets > largePiece {
			return // parsePieces lets none of these pass
		}
		disk := fsxtest.New(1)
		if err := disk.MkdirAll("/"); err != nil {
			t.Fatal(err)
		}
		file, err := disk.Create("/a")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(content, 0); err != nil {
			t.Fatal(err)
		}
		p := &packFile{file: file}
		record, err := p.readPiece(piece{offset: offset, octets: octets}, nil)
		if err != nil {
			return
		}
		again := bytes.Clone(record)
		putRecordHeader(again)
		clear(record[12:recordHeader])
		if !bytes.Equal(record, again) || !bytes.Equal(record[recordHeader:], content[offset+recordHeader:][:octets]) {
			t.Errorf("read %x out of %x", record, content)
		}
	})
}

// FuzzBodyValue reads whatever the store may hold as the value of a body.
func FuzzBodyValue(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{kindInline})
	f.Add([]byte("\x01octets"))
	f.Add([]byte("\x81shared octets"))
	f.Add(appendPieces([]byte{kindPieces}, []piece{{1, 16, 10}, {1, 42, largePiece}, {1 << 60, maxOffset, 1}}))
	f.Add(appendPieces([]byte{kindPieces | flagShared}, []piece{{7, 16, smallPiece}}))
	f.Add([]byte{kindPieces, 0x80})
	f.Add([]byte{3, 1, 2})
	f.Fuzz(func(t *testing.T, value []byte) {
		inline, pieces, err := parseBody(value)
		if err != nil {
			return
		}
		if inline != nil && len(pieces) > 0 {
			t.Error("both inline and in pieces")
		}
		for _, p := range pieces {
			if p.offset < 0 || p.offset > maxOffset || p.octets < 1 || p.octets > largePiece {
				t.Errorf("piece %+v", p)
			}
		}
		again, err := parsePieces(appendPieces(nil, pieces))
		if err != nil || len(again) != len(pieces) {
			t.Errorf("%+v becomes %+v, %v", pieces, again, err)
		}
		count := 0
		byPack(pieces, func(_ uint64, run []piece) { count += len(run) })
		if count != len(pieces) {
			t.Errorf("%d of %d pieces in runs", count, len(pieces))
		}
	})
}

// FuzzHeader reads whatever a pack may begin with.
func FuzzHeader(f *testing.F) {
	f.Add(packHeader(5))
	f.Add(packHeader(6))
	f.Add(packHeader(5)[:9])
	f.Add([]byte("PPACK\x00\x00\x02........"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, content []byte) {
		disk := fsxtest.New(1)
		if err := disk.MkdirAll("/"); err != nil {
			t.Fatal(err)
		}
		file, err := disk.Create("/a")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(content, 0); err != nil {
			t.Fatal(err)
		}
		err = (&packFile{number: 5, file: file}).checkHeader()
		if err == nil != (len(content) >= fileHeader && bytes.Equal(content[:fileHeader], packHeader(5))) {
			t.Errorf("%x: %v", content, err)
		}
	})
}

// TestKeysOfPacks: the keys of a pack are those between its own and the next
// one's.
func TestKeysOfPacks(t *testing.T) {
	t.Parallel()
	k := keys{tag: 'b'}
	low, high := k.inPack(5, store.Hash{}), k.inPack(5, store.Hash(bytes.Repeat([]byte{0xff}, 32)))
	if bytes.Compare(k.pack(5), low) > 0 || bytes.Compare(high, k.pack(6)) >= 0 || bytes.Compare(k.inPack(4, store.Hash{0xff}), k.pack(5)) >= 0 {
		t.Error("keys of one pack are not together")
	}
}
