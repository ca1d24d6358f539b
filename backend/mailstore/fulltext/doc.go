// Package fulltext keeps, for one account, an index of which of its texts may
// have a piece of text in them.
//
// What goes in: folded texts of documents, each under an identity. What comes
// out: for a needle, the documents that may have it, all those that do among
// them; the caller reads these and makes sure. It knows nothing of languages:
// what it keeps of a document are its grams, three characters that follow each
// other, two where they are ideographs or the like, hashed into buckets.
//
// Documents lie in segments that never change: for each bucket the documents
// that have it. A flush writes a segment, merges make large ones out of small
// ones and leave out documents that are gone. All that is written before a
// segment's header is invisible, so that a crash leaves nothing but garbage,
// which the next writer removes.
//
// What is kept is derived: it can be removed at any time and is built anew. What
// it leaves to others: what the documents of an account are and when they are
// added; that there is one writer at a time.
package fulltext
