package fsxtest

import (
	"hash/fnv"
	"maps"
	"math/rand/v2"
)

// sectorOctets is what a disk writes whole or not at all.
const sectorOctets = 512

// Cut returns a disk as it may be found when the power fails now, chosen by
// seed. It has the same capacity, and no faults. The disk it is taken from goes
// on undisturbed.
func (d *Disk) Cut(seed uint64) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	after := New(seed)
	after.capacity = d.capacity
	for path, dir := range d.dirs {
		// Each directory and file has a choice of its own that does not depend
		// on the order of the map.
		names := dir.afterCut(newRand(seed ^ hash(path)))
		copied := &directory{names: map[string]*inode{}, disk: map[string]*inode{}}
		for name, node := range names {
			content := node.afterCut(newRand(seed ^ hash(path+"/"+name)))
			copied.names[name] = &inode{data: content, disk: content, shared: true, allocated: int64(len(content))}
		}
		maps.Copy(copied.disk, copied.names)
		after.dirs[path] = copied
	}
	return after
}

// hash makes a seed of a name.
func hash(name string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return h.Sum64()
}

// afterCut chooses the names that a power cut leaves.
func (dir *directory) afterCut(rnd *rand.Rand) map[string]*inode {
	names := maps.Clone(dir.disk)
	journaled := rnd.IntN(2) == 0 // then the first changes are there, else any
	first := rnd.IntN(len(dir.pending) + 1)
	for i, r := range dir.pending {
		if journaled && i < first || !journaled && rnd.IntN(2) == 0 {
			r.apply(names)
		}
	}
	return names
}

// afterCut chooses the content that a power cut leaves. The result must not be
// written to.
func (n *inode) afterCut(rnd *rand.Rand) []byte {
	if len(n.pending) == 0 {
		return n.disk
	}
	switch rnd.IntN(4) {
	case 0:
		return n.disk
	case 1:
		return replay(n.disk, n.pending)
	case 2:
		return n.torn(rnd)
	default:
		return n.scattered(rnd)
	}
}

// torn has the first changes, and of the next, if a write, some sectors.
func (n *inode) torn(rnd *rand.Rand) []byte {
	k := rnd.IntN(len(n.pending))
	changes := append([]change(nil), n.pending[:k]...)
	if c := n.pending[k]; c.isWrite() {
		// The end of the part is the end of a sector, or of the whole.
		end := (c.offset/sectorOctets + 1 + rnd.Int64N(int64(len(c.data))/sectorOctets+1)) * sectorOctets
		c.data = c.data[:min(end-c.offset, int64(len(c.data)))]
		changes = append(changes, c)
	}
	content := replay(n.disk, changes)
	n.spoil(content, rnd)
	return content
}

// scattered has each sector in a version of its own, and the length of any
// time.
func (n *inode) scattered(rnd *rand.Rand) []byte {
	length, longest := int64(len(n.disk)), int64(len(n.disk))
	at := rnd.IntN(len(n.pending) + 1)
	lengths := length
	for i, c := range n.pending {
		lengths = c.lengthAfter(lengths)
		longest = max(longest, lengths)
		if i < at {
			length = lengths
		}
	}
	content := resize(append([]byte(nil), n.disk...), longest)
	for start := int64(0); start < longest; start += sectorOctets {
		if sector := content[start:min(start+sectorOctets, longest)]; n.touched(start) {
			for _, c := range n.pending[:rnd.IntN(len(n.pending)+1)] {
				c.apply(sector, start)
			}
		}
	}
	content = resize(content, length)
	n.spoil(content, rnd)
	return content
}

// touched reports whether a change since the last sync concerns the sector.
func (n *inode) touched(start int64) bool {
	for _, c := range n.pending {
		if !c.isWrite() && c.length < start+sectorOctets ||
			c.isWrite() && c.offset < start+sectorOctets && c.offset+int64(len(c.data)) > start {
			return true
		}
	}
	return false
}

// spoil sometimes puts garbage into one sector that was being overwritten as a
// whole. One with synced octets is rewritten with the same ones: a torn write
// does them no harm.
func (n *inode) spoil(content []byte, rnd *rand.Rand) {
	c := n.pending[rnd.IntN(len(n.pending))]
	first := (c.offset + sectorOctets - 1) / sectorOctets * sectorOctets
	sectors := (c.offset + int64(len(c.data)) - first) / sectorOctets
	if !c.isWrite() || sectors <= 0 || rnd.IntN(2) == 0 {
		return
	}
	start := first + rnd.Int64N(sectors)*sectorOctets
	for i := start; i < min(start+sectorOctets, int64(len(content))); i++ {
		content[i] = byte(rnd.Uint32())
	}
}
