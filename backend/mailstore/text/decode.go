package text

// Decode returns the value of a header field with its encoded-words (RFC 2047)
// decoded, as searches see it but not folded.
func Decode(value string) string {
	f := fieldReaders.Get().(*fields)
	defer fieldReaders.Put(f)
	return string(f.words.decode([]byte(value)))
}
