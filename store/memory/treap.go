package memory

// node is a persistent ordered map: a treap whose priorities follow from the
// keys, so that its shape depends on what it holds alone. Changes copy the path
// to what they change; whoever holds an older root keeps what it had.
type node struct {
	key         string
	value       []byte // never written to
	priority    uint32
	left, right *node
}

// priority is FNV-1a, stirred.
func priority(key string) uint32 {
	h := uint32(2166136261)
	for i := range len(key) {
		h = (h ^ uint32(key[i])) * 16777619
	}
	h ^= h >> 15
	h *= 0x2c1b3c6d
	return h ^ h>>12
}

func (n *node) get(key string) ([]byte, bool) {
	for n != nil {
		switch {
		case key < n.key:
			n = n.left
		case key > n.key:
			n = n.right
		default:
			return n.value, true
		}
	}
	return nil, false
}

// put returns the map with key set to value.
func (n *node) put(key string, value []byte) *node {
	if n != nil && n.key == key {
		changed := *n
		changed.value = value
		return &changed
	}
	p := priority(key)
	if n == nil || p > n.priority { // then key is not below n either
		less, more := n.split(key)
		return &node{key: key, value: value, priority: p, left: less, right: more}
	}
	changed := *n
	if key < n.key {
		changed.left = n.left.put(key, value)
	} else {
		changed.right = n.right.put(key, value)
	}
	return &changed
}

// split returns what lies below key and the rest.
func (n *node) split(key string) (less, more *node) {
	if n == nil {
		return nil, nil
	}
	changed := *n
	if n.key < key {
		changed.right, more = n.right.split(key)
		return &changed, more
	}
	less, changed.left = n.left.split(key)
	return less, &changed
}

// join returns both: everything in a lies below everything in b.
func join(a, b *node) *node {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.priority > b.priority:
		changed := *a
		changed.right = join(a.right, b)
		return &changed
	default:
		changed := *b
		changed.left = join(a, b.left)
		return &changed
	}
}

// cut returns the map without lo <= key < hi.
func (n *node) cut(lo, hi string) *node {
	if lo >= hi {
		return n
	}
	less, rest := n.split(lo)
	_, more := rest.split(hi)
	return join(less, more)
}

// without returns the map without key.
func (n *node) without(key string) *node {
	if _, present := n.get(key); !present {
		return n
	}
	return n.cut(key, key+"\x00")
}

// ascend calls yield for lo <= key < hi in order until it returns false.
func (n *node) ascend(lo, hi string, yield func(*node) bool) bool {
	if n == nil {
		return true
	}
	if n.key >= lo {
		if !n.left.ascend(lo, hi, yield) {
			return false
		}
		if n.key < hi && !yield(n) {
			return false
		}
	}
	return n.key >= hi || n.right.ascend(lo, hi, yield)
}

// descend is ascend in reverse order.
func (n *node) descend(lo, hi string, yield func(*node) bool) bool {
	if n == nil {
		return true
	}
	if n.key < hi {
		if !n.right.descend(lo, hi, yield) {
			return false
		}
		if n.key >= lo && !yield(n) {
			return false
		}
	}
	return n.key < lo || n.left.descend(lo, hi, yield)
}
