package sortkey

import (
	"encoding/binary"
	"errors"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// Made tells how keys are made, for whoever keeps them: one that was made
// otherwise is worked out again. The tables of characters are part of that.
const Made = "1 " + unicode.Version + " " + norm.Version

// The first octet of a stored key.
const (
	storedDated = 1 << iota
	storedReply
)

var errKey = errors.New("malformed sort key")

// Append appends the stored form of the key to b.
func (k *Key) Append(b []byte) []byte {
	flags := byte(0)
	if k.Dated {
		flags |= storedDated
	}
	if k.Reply {
		flags |= storedReply
	}
	b = append(b, flags)
	if k.Dated {
		b = binary.AppendVarint(b, k.Sent)
	}
	from := uint16(0)
	for _, end := range k.ends {
		b = binary.AppendUvarint(b, uint64(end-from))
		from = end
	}
	b = append(b, k.text...)
	b = binary.BigEndian.AppendUint64(b, k.ID)
	for _, id := range k.References {
		b = binary.BigEndian.AppendUint64(b, id)
	}
	return b
}

// Parse reads what Append wrote. The key's strings are parts of b.
func Parse(b string) (Key, error) {
	var k Key
	if len(b) == 0 || b[0] > storedDated|storedReply {
		return k, errKey
	}
	k.Dated, k.Reply = b[0]&storedDated != 0, b[0]&storedReply != 0
	b = b[1:]
	if k.Dated {
		u, n := uvarint(b)
		if n == 0 {
			return k, errKey
		}
		k.Sent, b = int64(u>>1)^-int64(u&1), b[n:]
	}
	end := uint64(0)
	for f := range k.ends {
		octets, n := uvarint(b)
		if n == 0 || octets > maxStringOctets {
			return k, errKey
		}
		end += octets
		k.ends[f], b = uint16(end), b[n:]
	}
	if uint64(len(b)) < end+8 || (uint64(len(b))-end)%8 != 0 || (uint64(len(b))-end)/8 > maxReferences+1 {
		return k, errKey
	}
	k.text, b = b[:end], b[end:]
	k.ID, b = number64(b), b[8:]
	if len(b) > 0 {
		k.References = make([]uint64, len(b)/8)
		for i := range k.References {
			k.References[i] = number64(b[8*i:])
		}
	}
	return k, nil
}

func number64(b string) (n uint64) {
	for i := range 8 {
		n = n<<8 | uint64(b[i])
	}
	return n
}

// uvarint is binary.Uvarint of a string; n is 0 where there is none.
func uvarint(b string) (u uint64, n int) {
	for i := 0; i < len(b) && i < binary.MaxVarintLen64; i++ {
		u |= uint64(b[i]&0x7f) << (7 * i)
		if b[i] < 0x80 {
			return u, i + 1
		}
	}
	return 0, 0
}
