package mime

import "strconv"

// appendString writes an IMAP string: quoted where RFC 9051 allows it in both
// its own and RFC 3501's grammar, a literal otherwise. NUL, CR and LF, which
// fit into neither or break lines, become spaces.
func appendString(dst, s []byte) []byte {
	quotable := true
	for _, c := range s {
		if c < ' ' && c != '\t' || c >= 0x7f {
			quotable = false
			break
		}
	}
	if !quotable {
		dst = append(dst, '{')
		dst = strconv.AppendInt(dst, int64(len(s)), 10)
		dst = append(dst, '}', '\r', '\n')
		for _, c := range s {
			if c == 0 || c == '\r' || c == '\n' {
				c = ' '
			}
			dst = append(dst, c)
		}
		return dst
	}
	dst = append(dst, '"')
	for _, c := range s {
		if c == '"' || c == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, c)
	}
	return append(dst, '"')
}

// appendNString writes NIL for nil.
func appendNString(dst, s []byte) []byte {
	if s == nil {
		return append(dst, "NIL"...)
	}
	return appendString(dst, s)
}

// appendList writes what is a wire form already, NIL for nil.
func appendList(dst, list []byte) []byte {
	if list == nil {
		return append(dst, "NIL"...)
	}
	return append(dst, list...)
}

// appendStructure writes BODYSTRUCTURE, or BODY without extension data.
func (n *node) appendStructure(dst []byte, extended bool) []byte {
	dst = append(dst, '(')
	if n.Kind == Multipart {
		dst = n.appendMultipart(dst, extended)
	} else {
		dst = n.appendSingle(dst, extended)
	}
	if extended {
		dst = append(dst, ' ')
		dst = append(appendList(dst, n.content.disposition), ' ')
		dst = append(appendList(dst, n.content.language), ' ')
		dst = appendNString(dst, n.content.location)
	}
	return append(dst, ')')
}

// appendMultipart writes what is special to a multipart. One without parts
// shows an empty one, as the grammar wants at least one.
func (n *node) appendMultipart(dst []byte, extended bool) []byte {
	if len(n.children) == 0 {
		dst = append(dst, `("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0`...)
		if extended {
			dst = append(dst, " NIL NIL NIL NIL"...)
		}
		dst = append(dst, ')')
	}
	for _, child := range n.children {
		dst = child.appendStructure(dst, extended)
	}
	dst = append(dst, ' ')
	dst = appendString(dst, n.content.subtype)
	if extended {
		dst = append(dst, ' ')
		dst = appendList(dst, n.content.params)
	}
	return dst
}

// appendSingle writes what is special to a part that is no multipart.
func (n *node) appendSingle(dst []byte, extended bool) []byte {
	c := &n.content
	if n.opaque {
		dst = append(dst, `"application" "octet-stream" NIL`...)
	} else {
		dst = append(appendString(dst, c.mediaType), ' ')
		dst = append(appendString(dst, c.subtype), ' ')
		dst = appendList(dst, c.params)
	}
	dst = append(dst, ' ')
	dst = append(appendNString(dst, c.id), ' ')
	dst = append(appendNString(dst, c.description), ' ')
	if len(c.encoding) == 0 {
		dst = append(dst, `"7bit"`...)
	} else {
		dst = appendString(dst, c.encoding)
	}
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, n.Body.Len(), 10)
	if n.Kind == Message {
		dst = append(dst, ' ')
		dst = append(append(dst, n.children[0].envelope...), ' ')
		dst = n.children[0].appendStructure(dst, extended)
	}
	if n.Kind == Message || c.isText() {
		dst = append(dst, ' ')
		dst = strconv.AppendInt(dst, n.lines, 10)
	}
	if extended {
		dst = appendNString(append(dst, ' '), c.md5)
	}
	return dst
}
