package mime

import "bytes"

// ThreadRoot returns the message identifier, without its angle brackets, of the
// message that began the thread: the first of References, else the first of
// In-Reply-To, else the message's own; nil when there is none. It reads nothing
// but the header, so that it is the same on every node and for ever. RFC 5322
// section 3.6.4 has whoever shortens References keep the first.
func ThreadRoot(header []byte) []byte {
	var found [3][]byte
	for f := range fields(header) {
		for i, name := range [...]string{"references", "in-reply-to", "message-id"} {
			if found[i] == nil && foldEqual(f.name, name) {
				found[i] = messageID(f.value)
				break
			}
		}
		if found[0] != nil {
			break
		}
	}
	for _, id := range found {
		if id != nil {
			return id
		}
	}
	return nil
}

// messageID returns the first identifier in a field's value: what stands in
// angle brackets, with folding taken out. nil when there is none.
func messageID(value []byte) []byte {
	for {
		start := bytes.IndexByte(value, '<')
		if start < 0 {
			return nil
		}
		value = value[start+1:]
		end := bytes.IndexAny(value, "<>")
		if end < 0 {
			return nil
		}
		if value[end] == '<' {
			value = value[end:]
			continue
		}
		id := value[:end]
		if bytes.ContainsAny(id, " \t\r\n") {
			id = bytes.Join(bytes.Fields(id), nil)
		}
		if len(id) > 0 {
			return id
		}
		value = value[end:]
	}
}
