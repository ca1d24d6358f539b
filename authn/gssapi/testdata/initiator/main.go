//go:build cgo && gssapi

// Command initiator is the client's side of GSSAPI (RFC 4752) for tests, by the
// system's library: it writes each token as a line of base64 and reads the
// server's in the same way. It can be told to be rude.
package main

/*
#cgo LDFLAGS: -lgssapi_krb5
#include <stdlib.h>
#include <string.h>
#include <gssapi/gssapi.h>
#include <gssapi/gssapi_ext.h>
#include <gssapi/gssapi_krb5.h>

static gss_ctx_id_t ctx = GSS_C_NO_CONTEXT;

static OM_uint32 initiate(char *target, char *bindings, OM_uint32 flags, void *in, size_t in_len, gss_buffer_desc *out, OM_uint32 *minor) {
	OM_uint32 major, ignored;
	gss_name_t name;
	gss_buffer_desc text = { strlen(target), target }, token = { in_len, in };
	struct gss_channel_bindings_struct cb;
	memset(&cb, 0, sizeof cb);
	cb.application_data.length = strlen(bindings);
	cb.application_data.value = bindings;
	major = gss_import_name(minor, &text, (gss_OID)GSS_KRB5_NT_PRINCIPAL_NAME, &name);
	if (major != GSS_S_COMPLETE) return major;
	major = gss_init_sec_context(minor, GSS_C_NO_CREDENTIAL, &ctx, name, (gss_OID)gss_mech_krb5, flags, 0,
		strlen(bindings) > 0 ? &cb : GSS_C_NO_CHANNEL_BINDINGS, in_len > 0 ? &token : GSS_C_NO_BUFFER, NULL, out, NULL, NULL);
	gss_release_name(&ignored, &name);
	return major;
}

static OM_uint32 unwrap(void *in, size_t n, gss_buffer_desc *out, OM_uint32 *minor) {
	gss_buffer_desc token = { n, in };
	return gss_unwrap(minor, ctx, &token, out, NULL, NULL);
}

static OM_uint32 wrap(void *in, size_t n, gss_buffer_desc *out, OM_uint32 *minor) {
	gss_buffer_desc plain = { n, in };
	return gss_wrap(minor, ctx, 0, GSS_C_QOP_DEFAULT, &plain, NULL, out);
}

static char *told(OM_uint32 minor) {
	OM_uint32 ignored, more = 0;
	gss_buffer_desc text;
	if (gss_display_status(&ignored, minor, GSS_C_MECH_CODE, (gss_OID)gss_mech_krb5, &more, &text) != GSS_S_COMPLETE) return strdup("?");
	return strndup(text.value, text.length);
}
*/
import "C"

import (
	"bufio"
	"encoding/base64"
	"flag"
	"fmt"
	"os"
	"strings"
	"unsafe"
)

func main() {
	target := flag.String("target", "", "`principal` of the service")
	bindings := flag.String("bindings", "", "channel bindings")
	authorization := flag.String("authorization", "", "whom to act as")
	layer := flag.Int("layer", 1, "security layer to choose")
	dce := flag.Bool("dce", false, "ask for three legs")
	oneWay := flag.Bool("one-way", false, "ask for no proof of the server")
	flag.Parse()
	flags := C.OM_uint32(C.GSS_C_MUTUAL_FLAG | C.GSS_C_INTEG_FLAG | C.GSS_C_SEQUENCE_FLAG)
	if *oneWay {
		flags &^= C.GSS_C_MUTUAL_FLAG
	}
	if *dce {
		flags |= C.GSS_C_DCE_STYLE
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	var token []byte
	for {
		var out C.gss_buffer_desc
		var minor C.OM_uint32
		data := C.CBytes(token)
		major := C.initiate(C.CString(*target), C.CString(*bindings), flags, data, C.size_t(len(token)), &out, &minor)
		if major != C.GSS_S_COMPLETE && major != C.GSS_S_CONTINUE_NEEDED {
			fail("init", minor)
		}
		if out.length > 0 || len(token) > 0 {
			say(C.GoBytes(out.value, C.int(out.length)))
		}
		if major == C.GSS_S_COMPLETE {
			break
		}
		token = hear(lines)
	}
	var plain, wrapped C.gss_buffer_desc
	var minor C.OM_uint32
	offer := hear(lines)
	if C.unwrap(C.CBytes(offer), C.size_t(len(offer)), &plain, &minor) != C.GSS_S_COMPLETE {
		fail("unwrap", minor)
	}
	fmt.Fprintf(os.Stderr, "offer %x\n", C.GoBytes(plain.value, C.int(plain.length)))
	choice := append([]byte{byte(*layer), 0, 0, 0}, *authorization...)
	if C.wrap(C.CBytes(choice), C.size_t(len(choice)), &wrapped, &minor) != C.GSS_S_COMPLETE {
		fail("wrap", minor)
	}
	say(C.GoBytes(wrapped.value, C.int(wrapped.length)))
}

func fail(what string, minor C.OM_uint32) {
	text := C.told(minor)
	defer C.free(unsafe.Pointer(text))
	fmt.Fprintln(os.Stderr, what+":", C.GoString(text))
	os.Exit(1)
}

func say(token []byte) { fmt.Println(base64.StdEncoding.EncodeToString(token)) }

func hear(lines *bufio.Scanner) []byte {
	if !lines.Scan() {
		os.Exit(2)
	}
	token, err := base64.StdEncoding.DecodeString(strings.TrimSpace(lines.Text()))
	if err != nil {
		os.Exit(3)
	}
	return token
}
