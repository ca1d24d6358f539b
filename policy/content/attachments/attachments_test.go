package attachments

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/content"
	"github.com/postern-mail/postern/status"
)

func message(t testing.TB, text string) *content.Message {
	t.Helper()
	spool, err := content.OpenSpool(content.SpoolConfig{Dir: filepath.Join(t.TempDir(), "tmp")}, fsx.OS())
	if err != nil {
		t.Fatal(err)
	}
	fields, end := content.Split([]byte(text))
	m, err := content.New(spool, content.Limits{}, nil, fields, strings.NewReader(text[end:]))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		if all, memory := spool.Octets(); all != 0 || memory != 0 {
			t.Errorf("%d octets are left in the spool", all)
		}
	})
	return m
}

// attached is a message with one attachment, whose fields are given.
func attached(fields string, octets []byte) string {
	encoded := base64.StdEncoding.EncodeToString(octets)
	var lines strings.Builder
	for len(encoded) > 76 {
		lines.WriteString(encoded[:76] + "\r\n")
		encoded = encoded[76:]
	}
	lines.WriteString(encoded + "\r\n")
	return "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nhello\r\n--b\r\n" +
		fields + "\r\nContent-Transfer-Encoding: base64\r\n\r\n" + lines.String() + "--b--\r\n"
}

func named(name string, octets []byte) string {
	return attached(`Content-Disposition: attachment; filename="`+name+`"`, octets)
}

type entry struct {
	name   string
	octets []byte
	flags  uint16
}

func zipped(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, e := range entries {
		w, err := z.CreateHeader(&zip.FileHeader{Name: e.name, Method: zip.Deflate, Flags: e.flags})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.octets); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// stored is a zip archive of files that are not packed.
func stored(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, e := range entries {
		w, err := z.CreateHeader(&zip.FileHeader{Name: e.name, Method: zip.Store})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.octets); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// tarOf is a tar archive of one header.
func tarOf(t testing.TB, h *tar.Header) []byte {
	t.Helper()
	kind := h.Typeflag
	if kind == tar.TypeGNUSparse || kind == 'Q' { // which the writer does not write
		h.Typeflag = tar.TypeReg
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return retyped(b.Bytes(), kind)
}

// retyped gives the first file of a tar archive another type.
func retyped(octets []byte, kind byte) []byte {
	octets[156] = kind
	copy(octets[148:], "        ")
	sum := 0
	for _, c := range octets[:512] {
		sum += int(c)
	}
	copy(octets[148:], fmt.Sprintf("%06o\x00 ", sum))
	return octets
}

// holed is a tar archive of one sparse file that ends in a hole (GNU format 1.0).
func holed(t testing.TB, begins []byte, size int64) []byte {
	t.Helper()
	sparse := make([]byte, 512)
	copy(sparse, fmt.Sprintf("1\n0\n%d\n", len(begins)))
	record := func(key, value string) string {
		text := " " + key + "=" + value + "\n"
		n := len(text) + 2
		if n > 99 {
			n++
		}
		return fmt.Sprint(n) + text
	}
	records := record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") + record("GNU.sparse.name", "a.gz") + record("GNU.sparse.realsize", fmt.Sprint(size))
	block := func(name string, kind byte, octets []byte) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(octets)), Mode: 0o600, Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(octets); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		return retyped(b.Bytes(), kind)
	}
	return slices.Concat(block("pax", tar.TypeXHeader, []byte(records)), block("a.gz", tar.TypeReg, append(sparse, begins...)), make([]byte, 1024))
}

func tarred(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&tar.Header{Name: e.name, Size: int64(len(e.octets)), Mode: 0o600, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.octets); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, name string, octets []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Name = name
	if _, err := w.Write(octets); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// rarred is a RAR 5 archive of one stored file.
func rarred(name string, octets []byte) []byte {
	header := func(kind, flags byte, rest ...byte) []byte {
		body := append([]byte{kind, flags}, rest...)
		sized := append([]byte{byte(len(body))}, body...)
		return append(binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(sized)), sized...)
	}
	// data size, file flags (CRC), unpacked size, attributes, CRC, method, host, name
	size := binary.AppendUvarint(nil, uint64(len(octets)))
	file := append(slices.Concat(size, []byte{4}, size, []byte{0}), binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(octets))...)
	file = append(append(file, 0, 1, byte(len(name))), name...)
	all := append([]byte("Rar!\x1a\x07\x01\x00"), header(1, 0, 0)...)
	all = append(append(all, header(2, 2, file...)...), octets...)
	return append(all, header(5, 0, 0)...)
}

func made(t testing.TB, args map[string][]string) *Stage {
	t.Helper()
	s, err := New(policy.Spec{Name: Name, Args: args})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func evaluate(t testing.TB, s *Stage, text string) mail.Verdict {
	t.Helper()
	v, err := s.Evaluate(t.Context(), &mail.Transaction{Message: message(t, text)})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

var program = append([]byte("MZ\x90\x00\x03\x00\x00\x00\x04\x00\x00\x00\xff\xff\x00\x00"), make([]byte, 200)...)

func TestNames(t *testing.T) {
	t.Parallel()
	s := made(t, map[string][]string{"deny_names": {"dangerous"}, "allow_names": {"setup.exe"}})
	for name, denied := range map[string]bool{
		`Content-Type: application/pdf; name="bill.pdf"`:                                         false,
		`Content-Disposition: attachment; filename="bill.exe"`:                                   true,
		`Content-Disposition: attachment; filename=BILL.EXE`:                                     true,
		`Content-Disposition: attachment; filename="bill.pdf.exe"`:                               true,
		`Content-Disposition: attachment; filename="bill.exe.pdf"`:                               false,
		`Content-Disposition: attachment; filename="bill.exe . "`:                                true,
		`Content-Disposition: attachment; filename="bill.exe::$DATA"`:                            true,
		`Content-Disposition: attachment; filename="..\\..\\bill.exe"`:                           true,
		`Content-Disposition: attachment; filename="setup.exe"`:                                  false,
		`Content-Disposition: attachment; filename="=?utf-8?B?YmlsbC5leGU=?="`:                   true,
		`Content-Disposition: attachment; filename="=?iso-8859-1?Q?bill=2Eexe?="`:                true,
		`Content-Disposition: attachment; filename*=utf-8''bill%2Eexe`:                           true,
		`Content-Disposition: attachment; filename*0="bill."; filename*1="exe"`:                  true,
		`Content-Disposition: attachment; filename*1*=%65xe; filename*0*=us-ascii'en'bill.`:      true,
		`Content-Disposition: attachment; filename="bill.pdf"; filename="bill.exe"`:              true,
		"Content-Type: text/plain; name=bill.exe\r\nContent-Disposition: attachment; filename=x": true,
		"Content-Type: text/plain;\r\n\tname=\"bill\r\n .exe\"":                                  true,
		"Content-Disposition: attachment; filename=\"bill\u202efdp.exe\"":                        true,
		"Content-Disposition: attachment; filename=\"bill\uff0eexe\"":                            true,
		"Content-Disposition: attachment; filename=\"bill.e\u200bxe\"":                           true,
		`Content-Disposition: attachment; filename="x.{00020906-0000-0000-C000-000000000046}"`:   true,
		`Content-Disposition: attachment; filename=my bill.exe`:                                  true,
		`Content-Disposition: attachment; filename=a b c d e f g h i j k l.exe`:                  true,
		`Content-Disposition: attachment; filename=bill.exe for you`:                             true,
		`Content-Disposition: attachment; filename="bill".exe`:                                   true,
		`Content-Disposition: attachment; filename="bill.exe;x=y`:                                true,
		`Content-Disposition: attachment; filename=(bill.exe`:                                    true,
		`Content-Disposition: attachment; filename=bill(1).exe`:                                  true,
		`Content-Disposition: attachment; filename="bill.pdf;.exe"`:                              true,
		`Content-Disposition: attachment; filename="x.exe;bill.pdf"`:                             false,
		`Content-Disposition: attachment; x filename="bill.exe"`:                                 true,
		`Content-Disposition: attachment; filename="bill:.exe"`:                                  true,
		`Content-Disposition: attachment; filename="C:\dir\bill.exe"`:                            true,
		`Content-Disposition: attachment; filename="bill.ex?e"`:                                  true,
		`Content-Disposition: attachment; filename="bill.exe'"`:                                  true,
		`Content-Disposition: attachment; filename*=utf-8''%zzbill%2Eexe`:                        true,
		`Content-Disposition: attachment; filename*=utf-8''bill%2Eexe%00.pdf`:                    true,
		`Content-Disposition: attachment; filename*=utf-8''b%253A.exe`:                           true,
		`Content-Disposition: attachment; filename*=iso-2022-kr''bill.exe`:                       true,
		`Content-Disposition: attachment; filename*=utf-7''bill+AC4-exe`:                         true,
		`Content-Disposition: attachment; filename*=utf-16''%FE%FF%00b%00.%00e%00x%00e`:          true,
		`Content-Disposition: attachment; filename*=utf-16''b%00.%00e%00x%00e%00`:                true,
		`Content-Disposition: attachment; filename*=ibm037''%82%4B%85%A7%85`:                     true,
		`Content-Disposition: attachment; filename*0="bill.exe"; filename*2=".pdf"`:              true,
		`Content-Disposition: attachment; filename*0="bill.exe"; filename*0=".pdf"`:              true,
		`Content-Disposition: attachment; filename*0="bill."; filename*0001="exe"`:               true,
		`Content-Disposition: attachment; filename*1="bill."; filename*0="exe"`:                  true,
		`Content-Disposition: attachment; filename*0*=utf-8''bill; filename*1="%2Eexe"`:          true,
		`Content-Disposition: attachment; filename*0="=?utf-8?B?YmlsbC"; filename*1="5leGU=?="`:  true,
		`Content-Disposition: attachment; filename="=?x-unknown?Q?bill=2Eexe?="`:                 true,
		`Content-Disposition: attachment; filename="=?utf-8?B?YmlsbC5leGU?="`:                    true,
		`Content-Disposition: attachment; filename="=?utf-8*en?Q?bill.e?= =?utf-8?Q?xe?="`:       true,
		`Content-Disposition: attachment; filename="=?utf-8?Q?100%_of=3F?= =?= x.pdf"`:           false,
		`Content-Disposition: attachment; filename="` + strings.Repeat("x", 1100) + `.exe"`:      true,
	} {
		v := evaluate(t, s, attached(name, []byte("hello")))
		if got := v.Action == mail.Reject; got != denied {
			t.Errorf("%s: %s %s", name, v.Action, v.Detail)
		}
	}
}

// TestInside: what stands in archives, to which depth, and what is odd about them.
func TestInside(t *testing.T) {
	t.Parallel()
	text := []byte("hello hello hello")
	bad := entry{"dir/bad.exe", text, 0}
	fine := entry{"fine.txt", text, 0}
	deep := zipped(t, bad)
	for range 3 {
		deep = zipped(t, fine, entry{"in.zip", deep, 0})
	}
	large := zipped(t, entry{"zeros", make([]byte, 8<<20), 0})
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, file string
		octets     []byte
		args       map[string][]string
		want       string // action and the path that is told
	}{
		{"zip", "a.zip", zipped(t, fine, bad), nil, "reject a.zip/dir/bad.exe"},
		{"zip of nothing bad", "a.zip", zipped(t, fine), nil, "dunno"},
		{"zip under another name", "a.pdf", zipped(t, bad), nil, "reject a.pdf/dir/bad.exe"},
		{"tar", "a.tar", tarred(t, fine, bad), nil, "reject a.tar/dir/bad.exe"},
		{"tar.gz", "a.tgz", gzipped(t, "", tarred(t, bad)), nil, "reject a.tgz/a.tar/dir/bad.exe"},
		{"gz by its name", "bad.exe.gz", gzipped(t, "", text), nil, "reject bad.exe.gz/bad.exe"},
		{"gz by the name in it", "x.gz", gzipped(t, "bad.exe", text), nil, "reject x.gz/bad.exe"},
		{"zst", "bad.exe.zst", encoder.EncodeAll(text, nil), nil, "reject bad.exe.zst/bad.exe"},
		{"rar", "a.rar", rarred("bad.exe", text), nil, "reject a.rar/bad.exe"},
		{"rar of nothing bad", "a.rar", rarred("fine.txt", text), nil, "dunno"},
		{"zip in rar", "a.rar", rarred("x.zip", zipped(t, entry{"b.exe", nil, 0})), nil, "reject a.rar/x.zip/b.exe"},
		{"four deep", "a.zip", deep, nil, "reject a.zip/in.zip/in.zip/in.zip/dir/bad.exe"},
		{"five deep", "a.zip", zipped(t, entry{"in.zip", deep, 0}), nil, "hold"},
		{"too deep is refused", "a.zip", deep, map[string][]string{"max_depth": {"2"}, "unreadable": {"reject"}}, "reject a.zip"},
		{"too deep is put off", "a.zip", deep, map[string][]string{"max_depth": {"2"}, "unreadable": {"defer"}}, "reject a.zip"},
		{"too deep is accepted", "a.zip", deep, map[string][]string{"max_depth": {"2"}, "unreadable": {"accept"}}, "dunno"},
		{"too many", "a.zip", zipped(t, fine, fine, fine, fine), map[string][]string{"max_files": {"5"}}, "hold"},
		{"too large", "a.zip", zipped(t, entry{"in.zip", large, 0}, entry{"b.gz", gzipped(t, "", gzipped(t, "", make([]byte, 8<<20))), 0}), map[string][]string{"max_octets": {"10000"}}, "hold"},
		{"ratio", "a.gz", gzipped(t, "", tarred(t, entry{"a.zip", append([]byte("PK\x03\x04"), make([]byte, 12<<20)...), 0})), map[string][]string{"max_ratio": {"10"}}, "hold"},
		{"encrypted", "a.zip", zipped(t, entry{"x.txt", text, 1}), map[string][]string{"deny": {"encrypted"}}, "reject a.zip/x.txt"},
		{"encrypted, nobody minds", "a.zip", zipped(t, entry{"x.txt", text, 1}), nil, "dunno"},
		{"encrypted, but its name is not", "a.zip", zipped(t, entry{"x.exe", text, 1}), nil, "reject a.zip/x.exe"},
		{"macros", "a.docm", zipped(t, entry{"[Content_Types].xml", text, 0}, entry{"word/vbaProject.bin", text, 0}), map[string][]string{"deny": {"macros"}}, "reject a.docm"},
		{"macros are held", "a.docm", zipped(t, entry{"word/vbaProject.bin", text, 0}), map[string][]string{"hold": {"macros"}}, "hold"},
		{"old macros", "a.doc", slices.Concat([]byte("\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"), make([]byte, 70000), project), map[string][]string{"deny": {"macros"}}, "reject a.doc"},
		{"a program by its content", "a.txt", program, map[string][]string{"deny": {"executable"}}, "reject a.txt"},
		{"a program in an archive", "a.zip", zipped(t, entry{"a.txt", program, 0}), map[string][]string{"deny": {"executable"}}, "reject a.zip/a.txt"},
		{"a type by its content", "a.txt", []byte("%PDF-1.7\n"), map[string][]string{"deny_types": {"application/pdf"}}, "reject a.txt"},
		{"a type that is allowed", "a.txt", []byte("%PDF-1.7\n"), map[string][]string{"deny_types": {"application/*"}, "allow_types": {"application/pdf"}}, "dunno"},
		{"archives", "a.zip", zipped(t, fine), map[string][]string{"deny": {"archive"}}, "reject a.zip"},
		{"7z is not looked into", "a.7z", []byte("7z\xbc\xaf\x27\x1c\x00\x04"), nil, "hold"},
		{"7z in a zip", "a.zip", zipped(t, entry{"b.7z", []byte("7z\xbc\xaf\x27\x1c\x00\x04"), 0}, fine), nil, "hold"},
		{"bad behind a 7z", "a.zip", zipped(t, entry{"b.7z", []byte("7z\xbc\xaf\x27\x1c\x00\x04"), 0}, entry{"c.zip", zipped(t, bad), 0}), nil, "reject a.zip/c.zip/dir/bad.exe"},
		{"bad behind a 7z in a tar", "a.tar", tarred(t, entry{"b.7z", []byte("7z\xbc\xaf\x27\x1c\x00\x04"), 0}, bad), nil, "reject a.tar/dir/bad.exe"},
		{"a folder with octets", "a.zip", slices.Concat(bytes.ReplaceAll(zipped(t, entry{"in.zip_", zipped(t, bad), 0}), []byte("in.zip_"), []byte("in.zip/"))), nil, "hold"},
		{"a stored zip in a zip", "a.zip", stored(t, entry{"in.zip", zipped(t, fine), 0}), nil, "dunno"},
		{"two zips in one file", "a.zip", slices.Concat(zipped(t, entry{"x", zipped(t, bad), 0}), zipped(t, fine)), nil, "hold"},
		{"a zip behind other things", "a.zip", slices.Concat([]byte("GIF89a and so on"), zipped(t, bad)), nil, "reject a.zip/dir/bad.exe"},
		{"an Office file behind other things", "a.docm", slices.Concat([]byte("<html></html>"), zipped(t, entry{"vbaProject.bin", text, 0})), map[string][]string{"deny": {"macros"}}, "reject a.docm"},
		{"no Office file", "a.docx", text, nil, "dunno"},
		{"a rar that is a zip by its name", "a.zip", slices.Concat(rarred("fine.txt", text), zipped(t, bad)), nil, "reject a.zip/dir/bad.exe"},
		{"a sparse file in a tar", "a.tar", tarOf(t, &tar.Header{Name: "bad.exe", Typeflag: tar.TypeGNUSparse, Format: tar.FormatGNU}), nil, "reject a.tar/bad.exe"},
		{"a link in a tar", "a.tar", tarOf(t, &tar.Header{Name: "bad.exe", Typeflag: tar.TypeSymlink, Linkname: "x"}), nil, "reject a.tar/bad.exe"},
		{"an unknown kind of file in a tar", "a.tar", tarOf(t, &tar.Header{Name: "bad.exe", Typeflag: 'Q'}), nil, "reject a.tar/bad.exe"},
		{"a hole of a tebibyte", "a.tar", holed(t, gzipped(t, "", tarred(t, bad)), 1<<40), nil, "hold"},
		{"gz with a blank behind its name", "bad.exe.gz ", gzipped(t, "", text), nil, "reject bad.exe.gz/bad.exe"},
		{"gz under another name", "bad.exe.x", gzipped(t, "", text), nil, "reject bad.exe.x/bad.exe"},
		{"an archive cut off", "a.zip", zipped(t, fine, fine)[:60], nil, "hold"},
		{"an archive by its name only", "a.zip", text, nil, "hold"},
		{"disguised", "a\u202etxt.pdf", text, map[string][]string{"deny": {"disguised"}}, "reject atxt.pdf"},
		{"held by name", "a.iso9", text, map[string][]string{"hold_names": {"*.iso9"}}, "hold"},
	} {
		args := map[string][]string{"deny_names": {"*.exe"}}
		for k, v := range tt.args {
			args[k] = v
		}
		v := evaluate(t, made(t, args), named(tt.file, tt.octets))
		got := v.Action.String()
		if v.Action == mail.Reject {
			path, _, _ := strings.Cut(strings.TrimPrefix(v.Reply.Text, `Attachment "`), `"`)
			got += " " + path
		}
		if got != tt.want {
			t.Errorf("%s: %s (%s), wanted %s", tt.name, got, v.Detail, tt.want)
		}
	}
}

// TestUnreadableTellsTheKind of what nobody looks into.
func TestUnreadableTellsTheKind(t *testing.T) {
	t.Parallel()
	for kind, octets := range map[string]string{
		"7z": "7z\xbc\xaf\x27\x1c\x00\x04", "xz": "\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46\x02", "cab": "MSCF\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00",
		"lzh": "\x20\x00-lh5-\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "arj": "\x60\xea\x29\x00\x1e\x0b\x01\x0b\x10\x00\x02" + strings.Repeat("\x00", 40),
		"ace": "\x00\x00\x31\x00\x00\x00\x90**ACE**\x14\x14\x02\x00\x00\x00\x00", "compress": "\x1f\x9d\x90hello",
		"lzip": "LZIP\x01\x0c\x00\x00", "ar": "!<arch>\ndebian-binary   ",
	} {
		v := evaluate(t, made(t, map[string][]string{"deny_names": {"*.exe"}, "unreadable": {"reject"}}), named("a.bin", []byte(octets)))
		if v.Action != mail.Reject || !strings.Contains(v.Reply.Text, kind+" archives are not looked into") {
			t.Errorf("%s: %s %s", kind, v.Action, v.Detail)
		}
		v = evaluate(t, made(t, map[string][]string{"deny_names": {"*.exe"}}), named("a.bin", []byte(octets)))
		if v.Action != mail.Hold || !strings.Contains(v.Detail, kind+" archives are not looked into") {
			t.Errorf("%s: %s %s", kind, v.Action, v.Detail)
		}
	}
}

func TestOddMessages(t *testing.T) {
	t.Parallel()
	s := made(t, map[string][]string{"deny_names": {"*.exe"}, "deny": {"uuencode", "tnef"}})
	for name, tt := range map[string]struct {
		text string
		want mail.Action
	}{
		"plain":               {"Subject: x\r\n\r\nhello\r\n", mail.Dunno},
		"empty":               {"", mail.Dunno},
		"the message itself":  {"Content-Type: application/x; name=a.exe\r\n\r\nhello\r\n", mail.Reject},
		"uuencode":            {"Subject: x\r\n\r\nhello\r\nbegin 644 a.txt\r\n#0V%T\r\n`\r\nend\r\n", mail.Reject},
		"a sentence":          {"Subject: x\r\n\r\nbegin the day with\r\n", mail.Dunno},
		"tnef":                {"Content-Type: application/ms-tnef\r\n\r\nx\r\n", mail.Reject},
		"a message in it":     {"Content-Type: message/rfc822\r\n\r\nContent-Type: text/plain; name=a.exe\r\n\r\nx\r\n", mail.Reject},
		"an encoded message":  {"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\nQUFB\r\n", mail.Hold},
		"two encodings":       {"Content-Transfer-Encoding: base64\r\nContent-Transfer-Encoding: 7bit\r\n\r\nQUFB\r\n", mail.Hold},
		"the same twice":      {"Content-Transfer-Encoding: base64\r\nContent-Transfer-Encoding: BASE64\r\n\r\nQUFB\r\n", mail.Dunno},
		"too deep":            {strings.Repeat("Content-Type: multipart/mixed; boundary=a\r\n", 200) + "\r\nx\r\n", mail.Hold},
		"too many parts":      {"Content-Type: multipart/mixed; boundary=a\r\n\r\n" + strings.Repeat("--a\r\n\r\n", 20000), mail.Hold},
		"too many parameters": {"Content-Type: x/y" + strings.Repeat("; a=b", 300) + "; name=a.exe\r\n\r\nx\r\n", mail.Hold},
		"two names of which one is of an archive": {"Content-Type: x/y; name=a.txt\r\nContent-Disposition: attachment; filename=b.zip\r\n\r\nx\r\n", mail.Hold},
		"too many names":        {strings.Repeat("Content-Type: x/y; name=a\r\n", 200) + "\r\nx\r\n", mail.Hold},
		"bad behind a good one": {"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\nContent-Type: x/y; name=a.txt\r\n\r\nx\r\n--a\r\nContent-Type: x/y; name=a.exe\r\n\r\nx\r\n", mail.Reject},
	} {
		if v := evaluate(t, s, tt.text); v.Action != tt.want {
			t.Errorf("%s: %s %s", name, v.Action, v.Detail)
		}
	}
	all := made(t, map[string][]string{"deny_names": {"*"}, "allow_names": {"*.pdf"}})
	if v := evaluate(t, all, named("a.pdf", nil)); v.Action != mail.Dunno {
		t.Errorf("only PDF may come, and does not: %s", v.Detail)
	}
	if v := evaluate(t, all, named("a.doc", nil)); v.Action != mail.Reject {
		t.Error("only PDF may come")
	}
}

// TestMoreThanAClientMayHold is unreadable: to wait would not help.
func TestMoreThanAClientMayHold(t *testing.T) {
	t.Parallel()
	spool, err := content.OpenSpool(content.SpoolConfig{Dir: filepath.Join(t.TempDir(), "tmp"), MaxOctets: 8 << 20}, fsx.OS())
	if err != nil {
		t.Fatal(err)
	}
	text := named("a.gz", gzipped(t, "", zipped(t, entry{"x", make([]byte, 100), 0}, entry{"y", nil, 0})))
	text = strings.Replace(text, "hello", strings.Repeat("hello", 1000), 1)
	large := named("a.gz", gzipped(t, "", tarred(t, entry{"x", make([]byte, 3<<20), 0})))
	for text, want := range map[string]mail.Action{text: mail.Dunno, large: mail.Hold} {
		fields, end := content.Split([]byte(text))
		m, err := content.New(spool, content.Limits{Client: netip.MustParsePrefix("192.0.2.1/32")}, nil, fields, strings.NewReader(text[end:]))
		if err != nil {
			t.Fatal(err)
		}
		v, err := made(t, map[string][]string{"deny_names": {"*.exe"}, "max_ratio": {"1000000"}}).Evaluate(t.Context(), &mail.Transaction{Message: m})
		if err != nil || v.Action != want {
			t.Errorf("%d octets: %s %s, %v; want %s", len(text), v.Action, v.Detail, err, want)
		}
		m.Close()
	}
	if u := spool.Usage(); u.Octets != 0 || u.Refused != 0 {
		t.Errorf("%+v", u)
	}
}

// TestPartsAsProgramsSeeThem: what divides a message for some program, and what is
// a header for some, does not hide a file, or is no secret.
func TestPartsAsProgramsSeeThem(t *testing.T) {
	t.Parallel()
	s := made(t, map[string][]string{"deny_names": {"*.exe"}})
	const (
		top  = "Subject: x\r\nContent-Type: multipart/mixed; "
		file = "Content-Type: x/y; name=a.exe\r\n\r\nx\r\n"
		text = "Content-Type: text/plain\r\n\r\nx\r\n"
	)
	encoded := base64.StdEncoding.EncodeToString(zipped(t, entry{"a.exe", nil, 0})) + "\r\n"
	for name, tt := range map[string]struct {
		text string
		want mail.Action
	}{
		"as it should be":               {top + "boundary=b\r\n\r\n--b\r\n" + text + "--b--\r\n", mail.Dunno},
		"white space behind a boundary": {top + "boundary=b\r\n\r\n--b \t\r\n" + file + "--b--\r\n", mail.Reject},
		"a boundary that ends in white": {top + "boundary=\"b \"\r\n\r\n--b\r\n" + file + "--b--\r\n", mail.Reject},
		"a boundary with equals":        {top + "boundary=----=_Part_1\r\n\r\n------=_Part_1\r\n" + text + "\r\n-----Original Message-----\r\n------=_Part_1--\r\n", mail.Dunno},
		"one that begins like another":  {top + "boundary=ab\r\n\r\n--ab\r\nContent-Type: multipart/alternative; boundary=a\r\n\r\n--a\r\n" + text + "--a--\r\n--ab\r\n" + text + "--ab--\r\n", mail.Dunno},
		"and the other way":             {top + "boundary=a\r\n\r\n--a\r\nContent-Type: multipart/alternative; boundary=ab\r\n\r\n--ab\r\n" + text + "--ab\r\n" + text + "--ab--\r\n--a--\r\n", mail.Dunno},
		"the beginning of a boundary":   {top + "boundary=b\r\n\r\n--b\r\nContent-Type: x/zip; name=z.zip\r\nContent-Transfer-Encoding: base64\r\n\r\n--bX\r\n\r\n" + encoded + "--b--\r\n", mail.Hold},
		"a boundary in pieces":          {top + "boundary*0=b; boundary*1=c\r\n\r\n--bc\r\n" + file + "--bc--\r\n", mail.Reject},
		"an extended boundary":          {top + "boundary*=us-ascii''%62c\r\n\r\n--bc\r\n" + file + "--bc--\r\n", mail.Reject},
		"two boundaries":                {top + "boundary=b; boundary=c\r\n\r\n--b\r\n\r\n--c\r\n" + file + "--c--\r\n", mail.Hold},
		"two fields of boundaries":      {top + "boundary=b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--b\r\n\r\n--c\r\n" + file + "--c--\r\n", mail.Hold},
		"one boundary twice":            {top + "boundary=b; boundary=b\r\n\r\n--b\r\n" + text + "--b--\r\n", mail.Dunno},
		"no boundary":                   {top + "x=y\r\n\r\n--b\r\n" + file + "--b--\r\n", mail.Hold},
		"an empty boundary":             {top + "boundary=\"\"\r\n\r\n--\r\n" + file + "----\r\n", mail.Hold},
		"a long boundary":               {top + "boundary=" + strings.Repeat("b", 3000) + "\r\n\r\n--" + strings.Repeat("b", 3000) + "\r\n" + file, mail.Hold},
		"blanks in a boundary":          {top + "boundary=b c\r\n\r\n--b\r\n" + file + "--b--\r\n", mail.Hold},
		"behind the last part":          {top + "boundary=b\r\n\r\n--b\r\n" + text + "--b--\r\n--b\r\n" + file + "--b--\r\n", mail.Hold},
		"the same message twice":        {top + "boundary=b\r\n\r\n" + strings.Repeat("--b\r\nContent-Type: message/rfc822\r\n\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n"+text+"--c--\r\n", 2) + "--b--\r\n", mail.Dunno},
		"a line in a header":            {top + "boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\nhello\r\nContent-Disposition: attachment; filename=a.exe\r\n\r\nx\r\n--b--\r\n", mail.Reject},
		"octets in a header":            {top + "boundary=b\r\n\r\n--b\r\nContent-Type: x/y\r\nContent-Transfer-Encoding: base64\r\n" + encoded + "\r\n--b--\r\n", mail.Hold},
		"a line ahead of a header":      {top + "boundary=b\r\n\r\n--b\r\nhello\r\nContent-Disposition: attachment; filename=a.exe\r\n\r\nx\r\n--b--\r\n", mail.Hold},
		"no header, no empty line":      {top + "boundary=b\r\n\r\n--b\r\nhello, this is\r\nfine\r\n--b--\r\n", mail.Dunno},
		"a line of mbox":                {top + "boundary=b\r\n\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n>From x\r\nContent-Type: x/y; name=a.exe\r\n\r\n--b--\r\n", mail.Reject},
		"no empty line behind a header": {top + "boundary=\"b:\"\r\n\r\n--b:\r\nContent-Type: text/plain\r\n--b:\r\n" + file + "--b:--\r\n", mail.Reject},
		"a field too long":              {top + "boundary=b\r\n\r\n--b\r\nContent-Disposition: attachment; x=\"" + strings.Repeat("x", 110000) + "\"; filename=a.exe\r\n\r\nx\r\n--b--\r\n", mail.Hold},
		"a long line in a header":       {top + "boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n" + strings.Repeat("x", 2048) + "a: b\r\n\r\n--b--\r\n", mail.Hold},
		"a piece of a message":          {"Content-Type: message/partial; id=x; number=1; total=2\r\n\r\nSubject: x\r\n\r\nx\r\n", mail.Hold},
		"several types":                 {"Content-Type: message/rfc822\r\nContent-Type: x/zip\r\n\r\nPK\x03\x04\r\n", mail.Hold},
		"a report":                      {top + "boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; x\r\n\r\nAction: failed\r\n\r\n--b\r\nContent-Type: text/rfc822-headers\r\n\r\nSubject: x\r\n\r\n--b--\r\n", mail.Dunno},
	} {
		if v := evaluate(t, s, tt.text); v.Action != tt.want {
			t.Errorf("%s: %s %s, want %s", name, v.Action, v.Detail, tt.want)
		}
	}
}

func TestReplyTellsTheFile(t *testing.T) {
	t.Parallel()
	v := evaluate(t, made(t, map[string][]string{"deny_names": {"*.exe"}}), named("bill.zip", zipped(t, entry{"b.exe", nil, 0})))
	r := v.WireReply()
	if r.Code != 550 || r.Text != `Attachment "bill.zip/b.exe": files of this kind are not accepted` || v.Reason != status.AttachmentRejected {
		t.Errorf("%v", r)
	}
	long := evaluate(t, made(t, map[string][]string{"deny_names": {"*.exe"}}), named(strings.Repeat("x", 900)+".exe", nil))
	if len(long.WireReply().Text) > 300 {
		t.Errorf("a reply of %d octets", len(long.WireReply().Text))
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	for want, args := range map[string]map[string][]string{
		"looks for nothing": {},
		"does not know":     {"deny_names": {"x"}, "deny_everything": {"x"}},
		"no pattern":        {"deny_names": {"[x"}},
		"is no type":        {"deny_types": {"exe"}},
		"no kind of file":   {"deny": {"viruses"}},
		"unreadable is":     {"deny_names": {"x"}, "unreadable": {"ignore"}},
		"write a number":    {"deny_names": {"x"}, "max_depth": {"100"}},
	} {
		if _, err := New(policy.Spec{Name: Name, Args: args}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestNoTimeLeft(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := made(t, map[string][]string{"deny_names": {"*.exe"}})
	if _, err := s.Evaluate(ctx, &mail.Transaction{Message: message(t, named("a.zip", zipped(t, entry{"x", nil, 0})))}); err == nil {
		t.Error("decided without looking")
	}
}

func TestDecoders(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"aGVsbG8=": "hello", "aGVs\r\nbG8=\r\n": "hello", "aGV*s bG8": "hello", "aGVsbG8=aGVsbG8=": "hellohello", "====": "", "a": "",
	} {
		if got, err := io.ReadAll(newBase64(strings.NewReader(text))); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"a=3Db=\r\nc\r\n": "a=bc\r\n", "=zz=4": "=zz=4", "=41=61": "Aa", "=": "=", "": "",
	} {
		if got, err := io.ReadAll(newQuoted(strings.NewReader(text))); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

// FuzzArchives: no octets break a reader of archives, or take more than they may.
func FuzzArchives(f *testing.F) {
	f.Add(zipped(f, entry{"a", []byte("x"), 0}, entry{"b.zip", zipped(f, entry{"c", nil, 0}), 0}))
	f.Add(tarred(f, entry{"a", []byte("x"), 0}))
	f.Add(gzipped(f, "x", tarred(f, entry{"a", []byte("x"), 0})))
	f.Add(rarred("x", []byte("y")))
	s := made(f, map[string][]string{"deny_names": {"*.never"}, "deny": {"macros", "encrypted"}, "max_octets": {"1000000"}, "max_files": {"100"}})
	f.Fuzz(func(t *testing.T, octets []byte) {
		if _, err := s.Evaluate(t.Context(), &mail.Transaction{Message: message(t, named("a", octets))}); err != nil {
			t.Error(err)
		}
	})
}

// FuzzParts: no message breaks the search for its parts.
func FuzzParts(f *testing.F) {
	f.Add(named("a.exe", []byte("x")))
	f.Add("Content-Type: x; name*0*=utf-8''%41; name*1=b; name=\"\\\"\r\n\r\nbegin 644 x\r\n")
	s := made(f, map[string][]string{"deny_names": {"*.exe"}, "max_files": {"100"}})
	f.Fuzz(func(t *testing.T, text string) {
		text = strings.ReplaceAll(strings.ReplaceAll(text, "\r", ""), "\n", "\r\n")
		if _, err := s.Evaluate(t.Context(), &mail.Transaction{Message: message(t, text)}); err != nil {
			t.Error(fmt.Errorf("%q: %w", text, err))
		}
	})
}
