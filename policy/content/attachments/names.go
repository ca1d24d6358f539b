package attachments

import (
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"github.com/postern-mail/postern/policy/content/mime"
)

// maxNameOctets bounds a name; of a longer one the beginning and the end count.
const maxNameOctets = 1024

// plain returns a name as somebody's computer would take it: without its folder,
// what is invisible or may not stand in a name, and dots and blanks at its end;
// wide letters made narrow, all of them small.
func plain(name string) string {
	if len(name) > maxNameOctets {
		name = name[:maxNameOctets/2] + name[len(name)-maxNameOctets/2:]
	}
	name = norm.NFKC.String(strings.ToValidUTF8(name, "?"))
	name = name[strings.LastIndexAny(name, `/\`)+1:]
	name = strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Cf, r) || unicode.IsControl(r) || r == unicode.ReplacementChar || strings.ContainsRune(`:"*?<>|`, r) {
			return -1
		}
		return unicode.ToLower(r)
	}, name)
	return strings.TrimRightFunc(name, func(r rune) bool { return r == '.' || r == '\'' || unicode.IsSpace(r) })
}

// readings returns a name in every way that computers take it: whole, up to what
// Windows calls a stream of the file, and up to an octet that ends text in C.
func readings(name string) []string {
	all := []string{plain(name)}
	for _, end := range []string{":", "\x00"} {
		if at := strings.LastIndexAny(name, `/\`) + 1; end == ":" && strings.Contains(name[at:], end) {
			first, _, _ := strings.Cut(name[at:], end)
			all = append(all, plain(first))
		} else if first, _, cut := strings.Cut(name, end); end != ":" && cut {
			all = append(all, plain(first))
		}
	}
	return slices.DeleteFunc(all, func(name string) bool { return name == "" })
}

// disguised reports whether a name holds marks that turn the direction of text
// around, by which "exe.pdf" is shown for "fdp.exe".
func disguised(name string) bool {
	return strings.ContainsFunc(name, func(r rune) bool {
		return r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
	})
}

// piece is a part of a name that a field gives in several (RFC 2231 section 3).
type piece struct {
	number   int
	extended bool
	text     string
}

// nameParameters returns every name that a Content-Type or Content-Disposition
// field gives: of several, mail programs take different ones. It is not whole
// where the field has too many parameters.
func nameParameters(field []byte) (names []string, whole bool) {
	pieces := make(map[string][]piece)
	parameters, whole := mime.Parameters(field)
	for _, p := range parameters {
		base, rest, starred := strings.Cut(strings.ToLower(p.Name), "*")
		if base != "name" && base != "filename" {
			continue
		}
		for _, value := range p.Others {
			names = append(names, decoded(value))
		}
		digits, extended := strings.CutSuffix(rest, "*")
		number, err := strconv.Atoi(digits)
		switch {
		case starred && rest == "":
			names = append(names, assembled([]piece{{0, true, p.Value}}))
		case starred && err == nil:
			pieces[base] = append(pieces[base], piece{number, extended, p.Value})
		default:
			names = append(names, decoded(p.Value))
		}
	}
	for _, of := range pieces {
		names = append(names, assembled(of))
		slices.SortStableFunc(of, func(a, b piece) int { return a.number - b.number })
		names = append(names, assembled(of))
		// Up to the first one that is missing, each once.
		once := slices.CompactFunc(of, func(a, b piece) bool { return a.number == b.number })
		for i := range once {
			if once[i].number != once[0].number+i {
				once = once[:i]
				break
			}
		}
		names = append(names, assembled(once))
	}
	for _, name := range names {
		names = append(names, escapes(name)) // which has no business in other names, and is undone all the same
	}
	slices.Sort(names)
	return slices.Compact(names), whole
}

// assembled returns the name that pieces give.
func assembled(pieces []piece) string {
	label, extended := "", false
	var b strings.Builder
	for i, p := range pieces {
		text := p.text
		if p.extended {
			extended = true
			charset, rest, _ := strings.Cut(text, "'")
			if _, value, labelled := strings.Cut(rest, "'"); i == 0 && labelled {
				label, text = charset, value
			}
			text = escapes(text)
		}
		b.WriteString(text)
	}
	if extended {
		return converted(label, b.String())
	}
	return decoded(b.String())
}

// escapes undoes %XX, wherever it is one.
func escapes(text string) string {
	if !strings.Contains(text, "%") {
		return text
	}
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] == '%' && i+2 < len(text) {
			if high, low := hex(text[i+1]), hex(text[i+2]); high >= 0 && low >= 0 {
				out = append(out, byte(high<<4|low))
				i += 2
				continue
			}
		}
		out = append(out, text[i])
	}
	return string(out)
}

// pattern is one of a list of names: *, ? and [...] as in a shell.
type pattern string

func (p pattern) matches(name string) bool {
	ok, err := path.Match(string(p), name)
	return ok && err == nil
}

// dangerous are the names of files that Windows, and what runs on it, starts.
var dangerous = func() []pattern {
	var all []pattern
	for _, extension := range strings.Fields(`ace ade adp app appref-ms appx appxbundle asp bas bat cer chm cmd com cpl crt
		csh der diagcab exe fxp gadget hlp hpj hta img inf ins iso isp its jar jnlp js jse ksh lnk mad maf mag mam maq mar mas mat
		mau mav maw mcf mda mdb mde mdt mdw mdz msc msh msh1 msh2 mshxml msh1xml msh2xml msi msix msixbundle msp mst ops osd
		pcd pif plg prf prg ps1 ps1xml ps2 ps2xml psc1 psc2 psd1 psdm1 pst py pyc pyo pyw pyz pyzw reg scf scr sct settingcontent-ms
		shb shs theme tmp udl url vb vbe vbp vbs vhd vhdx vsmacros vsw webpnp website wim ws wsb wsc wsf wsh xbap xll xnk`) {
		all = append(all, pattern("*."+extension))
	}
	return append(all, "*.{*}")
}()
