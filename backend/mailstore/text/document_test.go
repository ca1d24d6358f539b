package text

import (
	"archive/zip"
	"bytes"
	"encoding/base64"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/postern-mail/postern/backend/mailstore/mime"
)

// zipped makes an archive of names and contents, in turn.
func zipped(t testing.TB, members ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i := 0; i < len(members); i += 2 {
		w, err := z.Create(members[i])
		if err == nil {
			_, err = io.WriteString(w, members[i+1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// attached is a message with a file.
func attached(t testing.TB, media string, file []byte) *Message {
	t.Helper()
	return parse(t, "Subject: x\r\nContent-Type: "+media+"\r\nContent-Transfer-Encoding: base64\r\n\r\n"+base64.StdEncoding.EncodeToString(file))
}

// kept is a Sink that keeps everything.
type kept struct{ bytes.Buffer }

func (k *kept) Begin(Track) { k.WriteByte('|') }
func (k *kept) Add(_ Track, folded []byte) bool {
	k.Write(folded)
	return true
}

const (
	docx = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
	xlsx = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
	odt  = "application/vnd.oasis.opendocument.text"
)

var wordBody = `<?xml version="1.0" encoding="UTF-8" standalone="yes"?><w:document xmlns:w="urn:w"><w:body><w:p w:rsidR="00A>1"><w:pPr><w:jc w:val="center"/></w:pPr>` +
	`<w:r><w:t>Quart</w:t></w:r><w:proofErr w:type="spellStart"/><w:r><w:t xml:space="preserve">erly repo</w:t></w:r><w:r><w:rPr><w:b/></w:rPr><w:t>rt</w:t></w:r></w:p>` +
	`<w:p><w:r><w:t>Profit &amp; loss of M&#252;ller</w:t><w:br/><w:t>next</w:t><w:instrText>PAGEREF secretfield</w:instrText><w:delText>struck</w:delText></w:r></w:p>` +
	`<w:p><w:r><w:drawing><wp:posOffset>4711</wp:posOffset></w:drawing></w:r></w:p><!-- <w:t>comment</w:t> --></w:body></w:document>`

func TestDocuments(t *testing.T) {
	t.Parallel()
	word := zipped(t, "[Content_Types].xml", "<Types><t>types</t></Types>", "word/document.xml", wordBody, "word/styles.xml", "<w:t>stylename</w:t>",
		"word/header1.xml", "<w:hdr><w:p><w:r><w:t>Letterhead</w:t></w:r></w:p></w:hdr>", "docProps/core.xml", "<cp:p><dc:title>The Title</dc:title><dc:creator>Ann</dc:creator></cp:p>",
		"word/media/image1.png", "pngoctets")
	excel := zipped(t, "xl/sharedStrings.xml", `<sst><si><t>Turn</t></si><si><r><t>over</t></r><r><t>view</t></r><rPh><t/></rPh></si></sst>`,
		"xl/worksheets/sheet1.xml", `<worksheet><row><c r="A1" t="s"><v>31337</v></c><c r="B1" s='1'><v>20261122</v></c><c t="inlineStr"><is><t>inline cell</t></is></c></row></worksheet>`)
	points := zipped(t, "ppt/slides/slide1.xml", `<p:sld><a:p><a:r><a:t>Bul</a:t></a:r><a:r><a:t>let</a:t></a:r></a:p><a:p><a:r><a:t>point</a:t></a:r></a:p></p:sld>`,
		"ppt/slides/_rels/slide1.xml.rels", "<a:t>relation</a:t>")
	writer := zipped(t, "mimetype", odt, "content.xml", `<office:text><text:h>Head</text:h><text:p>open<text:span text:style-name="T1">doc</text:span>ument<text:s text:c="3"/>end<text:line-break/>`+
		`line</text:p><text:p><![CDATA[raw < ]] data]]></text:p></office:text>`, "meta.xml", "<meta><dc:title>Odd</dc:title><dc:subject>Even</dc:subject></meta>")
	wide := zipped(t, "content.xml", "\xff\xfe<\x00p\x00>\x00w\x00i\x00d\x00e\x00<\x00/\x00p\x00>\x00")
	for _, row := range []struct {
		name, media string
		file        []byte
		want        []string
		not         []string
	}{
		{"docx", docx, word, []string{"Quarterly report", "profit & loss of müller next", "Letterhead", "The Title Ann"},
			[]string{"secretfield", "struck", "4711", "comment", "stylename", "types", "pngoctets", "report letter", "w:p"}},
		{"docx by another name", "application/octet-stream; name=a.docx", word, []string{"Quarterly report"}, nil},
		{"xlsx", xlsx, excel, []string{"turn overview", "20261122 inline cell"}, []string{"31337"}},
		{"pptx", "application/vnd.ms-powerpoint.presentation.macroEnabled.12", points, []string{"bullet point"}, []string{"relation"}},
		{"odt", odt, writer, []string{"head opendocument end line raw < ]] data", "Odd Even"}, []string{"T1"}},
		{"UTF-16", odt, wide, []string{"wide"}, nil},
		{"cut off", docx, word[:len(word)/2], nil, []string{"Quarterly"}},
		{"no archive", docx, []byte("Quarterly report"), nil, []string{"Quarterly"}},
		{"another type", "image/png", word, nil, []string{"Quarterly"}},
	} {
		m := attached(t, row.media, row.file)
		for _, needle := range row.want {
			if ok, err := m.BodyContains(Options{Documents: true}, Exactly(needle)); !ok || err != nil {
				var k kept
				_ = m.Bodies(Options{Documents: true}, &k)
				t.Errorf("%s: %q is not found: %v, in %q", row.name, needle, err, k.String())
			}
			if ok, _ := m.BodyContains(Options{Attachments: true}, Exactly(needle)); ok {
				t.Errorf("%s: %q is found without documents", row.name, needle)
			}
		}
		for _, needle := range row.not {
			if ok, err := m.BodyContains(Options{Documents: true}, Exactly(needle)); ok || err != nil {
				t.Errorf("%s: %q is found: %v", row.name, needle, err)
			}
		}
	}
}

// TestDocumentBounds: what unpacks to more than a document does, or than a message
// may, ends there, and what comes first is found.
func TestDocumentBounds(t *testing.T) {
	t.Parallel()
	blank := strings.Repeat("<w:p></w:p>", 1<<20) // 11 MiB of nothing
	for _, row := range []struct {
		name    string
		members []string
		found   bool
	}{
		{"small", []string{"word/document.xml", "<w:t>needle</w:t>"}, true},
		{"before much", []string{"word/document.xml", "<w:t>needle</w:t>" + blank}, true},
		{"behind what is packed too well", []string{"word/document.xml", blank + "<w:t>needle</w:t>"}, false},
		{"in the next member", []string{"word/document.xml", blank, "word/footer1.xml", "<w:t>needle</w:t>"}, true},
		{"behind too many members", append(many(maxMembers), "word/document.xml", "<w:t>needle</w:t>"), false},
		{"in an archive within", []string{"word/document.xml", string(zipped(t, "word/document.xml", "<w:t>needle</w:t>"))}, false},
	} {
		m := attached(t, docx, zipped(t, row.members...))
		if ok, err := m.BodyContains(Options{Documents: true}, Exactly("needle")); ok != row.found || err != nil {
			t.Errorf("%s: %v, %v", row.name, ok, err)
		}
	}

	// One message, many archives: together they unpack to no more than one may.
	var c counter
	part := "--b\r\nContent-Type: " + docx + "\r\nContent-Transfer-Encoding: base64\r\n\r\n" +
		base64.StdEncoding.EncodeToString(zipped(t, "word/document.xml", "<w:t>"+strings.Repeat("x", ratioFree)+"</w:t>")) + "\r\n"
	m := parse(t, "Content-Type: multipart/mixed; boundary=b\r\n\r\n"+strings.Repeat(part, 2*maxUnpacked/ratioFree)+"--b--\r\n")
	if err := m.Bodies(Options{Documents: true}, &c); err != nil || c.octets > maxUnpacked || c.octets < maxUnpacked/2 {
		t.Errorf("%d octets of text, %v", c.octets, err)
	}

	huge := parse(t, "Content-Type: "+docx+"\r\n\r\nPK\x03\x04"+strings.Repeat("x", 3*maxDocumentOctets))
	huge.Body = func() (io.ReaderAt, error) { return failing{}, nil }
	if err := huge.Bodies(Options{Documents: true}, &c); err != nil {
		t.Errorf("a file that is too large is read: %v", err)
	}
}

func many(n int) (members []string) {
	for range n {
		members = append(members, "x", "")
	}
	return members
}

type counter struct{ octets int }

func (*counter) Begin(Track) {}
func (c *counter) Add(_ Track, folded []byte) bool {
	c.octets += len(folded)
	return true
}

// TestDocumentUnreadable: an error of the body is told, as everywhere.
func TestDocumentUnreadable(t *testing.T) {
	t.Parallel()
	m := attached(t, docx, zipped(t, "word/document.xml", "<w:t>x</w:t>"))
	m.Body = func() (io.ReaderAt, error) { return failing{}, nil }
	if err := m.Bodies(Options{Documents: true}, &counter{}); err == nil {
		t.Error("no error")
	}
}

// FuzzDocument: whatever an archive holds, reading it ends, within its bounds.
func FuzzDocument(f *testing.F) {
	f.Add(zipped(f, "word/document.xml", wordBody))
	f.Add(zipped(f, "content.xml", "<text:p>a<text:s/>b</text:p>", "xl/worksheets/sheet1.xml", `<c t="s"><v>1</v></c>`))
	f.Add([]byte("PK\x03\x04"))
	f.Fuzz(func(t *testing.T, file []byte) {
		w := newWalker(&Message{Body: func() (io.ReaderAt, error) { return bytes.NewReader(file), nil }}, Options{Documents: true}, &counter{})
		defer w.release()
		if err := w.document(&mime.Part{Body: mime.Span{End: int64(len(file))}}); err != nil {
			t.Fatal(err)
		}
		if w.unpacked < 0 || w.unpacked > maxUnpacked {
			t.Fatalf("%d octets may still be unpacked", w.unpacked)
		}
	})
}

// FuzzMarkup: in whatever pieces XML comes, its text is the same, and of each form
// there is no more of it than of the XML, with a space for a tag.
func FuzzMarkup(f *testing.F) {
	f.Add([]byte(wordBody), 7, uint8(openXML))
	f.Add([]byte("<text:p>a<![CDATA[b]]]>c</text:p>&#x41;&unknown;&"), 1, uint8(openText))
	f.Add([]byte("<!DOCTYPE a [<!ENTITY b '&b;&b;'>]><a b='c>d'>&b;</a>"), 3, uint8(properties))
	f.Fuzz(func(t *testing.T, in []byte, cut int, which uint8) {
		read := func(pieces bool) (out []byte) {
			var m markup
			m.reset(openXML+form(which%3), new(stripper))
			for rest := in; len(rest) > 0; {
				n := len(rest)
				if pieces {
					n = 1 + (cut&0xff)%len(rest)
				}
				out, rest = m.add(out, rest[:n], n == len(rest)), rest[n:]
			}
			return out
		}
		whole := read(false)
		if got := read(true); !bytes.Equal(got, whole) {
			t.Fatalf("in pieces %q, whole %q", got, whole)
		}
		if len(whole) > 2*len(in)+2 || utf8.Valid(in) && !utf8.Valid(whole) {
			t.Fatalf("%q became %q", in, whole)
		}
	})
}

func BenchmarkDocument(b *testing.B) {
	for name, words := range map[string]string{
		"words":      strings.Repeat(`<w:r><w:rPr><w:lang w:val="en-GB"/></w:rPr><w:t xml:space="preserve">some words of the text </w:t></w:r>`, 10_000),
		"references": "<w:t>" + strings.Repeat("&#32;", 200_000), // what a stranger may write
	} {
		b.Run(name, func(b *testing.B) {
			m := attached(b, docx, zipped(b, "word/document.xml", "<w:p>"+words+"</w:p>"))
			b.SetBytes(int64(len(words)))
			b.ReportAllocs()
			for b.Loop() {
				if err := m.Bodies(Options{Documents: true}, &counter{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
