package pack

import (
	"bytes"
	"slices"
	"testing"

	"github.com/postern-mail/postern/internal/fsx/fsxtest"
	"github.com/postern-mail/postern/store"
)

// FuzzRecord reads whatever a pack may hold as a record: what comes out is what
// went in, or an error.
func FuzzRecord(f *testing.F) {
	whole := append(make([]byte, recordHeader), "a piece of a body"...)
	putRecordHeader(whole, int64(len(whole)-recordHeader))
	f.Add(whole, int64(0), int64(18), int64(18))
	small := append(make([]byte, recordHeader), "smaller"...)
	putRecordHeader(small, 100)
	f.Add(small, int64(0), int64(100), int64(7))
	f.Add(append([]byte("0123456789abcdef"), whole...), int64(16), int64(18), int64(18))
	f.Add(whole[:20], int64(0), int64(18), int64(18))
	f.Add(whole, int64(0), int64(17), int64(17))
	f.Add([]byte("PR01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), int64(0), int64(0), int64(0))
	f.Add([]byte{}, int64(-1), int64(1), int64(1))
	f.Fuzz(func(t *testing.T, content []byte, offset, octets, stored int64) {
		if offset < 0 || offset > maxOffset || octets < 1 || octets > largePiece || stored < 1 || stored > octets {
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
		record, err := p.readRecord(piece{offset: offset, octets: octets, stored: stored}, nil)
		if err != nil {
			return
		}
		again := bytes.Clone(record)
		putRecordHeader(again, octets)
		if stored == octets {
			clear(record[12:recordHeader])
		}
		if !bytes.Equal(record, again) || !bytes.Equal(record[recordHeader:], content[offset+recordHeader:][:stored]) {
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
	f.Add(appendPieces([]byte{kindPieces}, []piece{{1, 16, 10, 10}, {1, 42, largePiece, largePiece}, {1 << 60, maxOffset, 1, 1}}))
	f.Add(appendPieces([]byte{kindPieces | flagShared}, []piece{{7, 16, smallPiece, 1}, {8, 16, largePiece, largePiece - 1}, {7, 99, 2, 1}}))
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
			if p.offset < 0 || p.offset > maxOffset || p.octets < 1 || p.octets > largePiece || p.stored < 1 || p.stored > p.octets {
				t.Errorf("piece %+v", p)
			}
		}
		again, err := parsePieces(appendPieces(nil, pieces))
		if err != nil || !slices.Equal(again, pieces) {
			t.Errorf("%+v becomes %+v, %v", pieces, again, err)
		}
		count := 0
		seen := map[uint64]bool{}
		byPack(pieces, func(number uint64, in []piece) {
			count += len(in)
			if seen[number] {
				t.Errorf("pack %d twice", number)
			}
			seen[number] = true
		})
		if count != len(pieces) {
			t.Errorf("%d of %d pieces by pack", count, len(pieces))
		}
	})
}

// FuzzHeader reads whatever a pack may begin with.
func FuzzHeader(f *testing.F) {
	f.Add(packHeader(5, fresh))
	f.Add(packHeader(5, aged))
	f.Add(packHeader(6, fresh))
	f.Add(packHeader(5, fresh)[:9])
	f.Add([]byte("PPACK\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x05")) // the first release's
	f.Add([]byte("PPACK\x00\x00\x03........"))
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
		_, err = (&packFile{number: 5, file: file}).readHeader()
		first := packHeader(5, fresh)
		first[7] = 1
		good := false
		for _, header := range [][]byte{first, packHeader(5, fresh), packHeader(5, aged)} {
			good = good || bytes.HasPrefix(content, header)
		}
		if err == nil != good {
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
