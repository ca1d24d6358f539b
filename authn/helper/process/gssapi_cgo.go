//go:build cgo && gssapi

package process

/*
#cgo LDFLAGS: -lgssapi_krb5 -lkrb5
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <gssapi/gssapi.h>
#include <gssapi/gssapi_ext.h>
#include <gssapi/gssapi_krb5.h>
#include <krb5.h>

typedef struct {
	OM_uint32 major, minor, flags;
	int step; // 1 key, 2 ticket, 3 names, 4 offer, 5 export
	gss_buffer_desc token, offer, state, source, target;
} accepted;

static gss_buffer_desc buffer(void *data, size_t n) {
	gss_buffer_desc b = { n, data };
	return b;
}

// take_ticket accepts one token of a client and makes the offer that follows
// the proof. All of out is for release_accepted, whatever comes.
static void take_ticket(char *keytab, void *token, size_t token_len, void *bindings, size_t bindings_len, accepted *out) {
	OM_uint32 ignored;
	gss_cred_id_t cred = GSS_C_NO_CREDENTIAL;
	gss_ctx_id_t ctx = GSS_C_NO_CONTEXT;
	gss_name_t source = GSS_C_NO_NAME, target = GSS_C_NO_NAME;
	gss_OID mech = GSS_C_NO_OID;
	gss_key_value_element_desc where = { "keytab", keytab };
	gss_key_value_set_desc store = { 1, &where };
	gss_OID_set_desc krb5_only = { 1, (gss_OID)gss_mech_krb5 };
	gss_buffer_desc in = buffer(token, token_len);
	struct gss_channel_bindings_struct cb;
	memset(&cb, 0, sizeof cb);
	cb.application_data = buffer(bindings, bindings_len);

	out->step = 1;
	out->major = gss_acquire_cred_from(&out->minor, GSS_C_NO_NAME, GSS_C_INDEFINITE, &krb5_only, GSS_C_ACCEPT, &store, &cred, NULL, NULL);
	if (out->major != GSS_S_COMPLETE)
		return;
	out->step = 2;
	out->major = gss_accept_sec_context(&out->minor, &ctx, cred, &in, bindings_len > 0 ? &cb : GSS_C_NO_CHANNEL_BINDINGS,
		&source, &mech, &out->token, &out->flags, NULL, NULL);
	if (out->major == GSS_S_COMPLETE && (mech == GSS_C_NO_OID || mech->length != gss_mech_krb5->length ||
		memcmp(mech->elements, gss_mech_krb5->elements, mech->length) != 0))
		out->major = GSS_S_BAD_MECH;
	if (out->major == GSS_S_COMPLETE) {
		out->step = 3;
		out->major = gss_display_name(&out->minor, source, &out->source, NULL);
	}
	if (out->major == GSS_S_COMPLETE)
		out->major = gss_inquire_context(&out->minor, ctx, NULL, &target, NULL, NULL, NULL, NULL, NULL);
	if (out->major == GSS_S_COMPLETE)
		out->major = gss_display_name(&out->minor, target, &out->target, NULL);
	if (out->major == GSS_S_COMPLETE) {
		unsigned char layers[4] = { 1, 0, 0, 0 }; // none, and so no size
		gss_buffer_desc plain = buffer(layers, sizeof layers);
		out->step = 4;
		out->major = gss_wrap(&out->minor, ctx, 0, GSS_C_QOP_DEFAULT, &plain, NULL, &out->offer);
	}
	if (out->major == GSS_S_COMPLETE) {
		out->step = 5;
		out->major = gss_export_sec_context(&out->minor, &ctx, &out->state);
	}
	if (ctx != GSS_C_NO_CONTEXT) gss_delete_sec_context(&ignored, &ctx, GSS_C_NO_BUFFER);
	gss_release_name(&ignored, &source);
	gss_release_name(&ignored, &target);
	gss_release_cred(&ignored, &cred);
}

// release_accepted forgets the session key before it gives memory back.
static void release_accepted(accepted *a) {
	OM_uint32 ignored;
	if (a->state.value != NULL) memset(a->state.value, 0, a->state.length);
	gss_release_buffer(&ignored, &a->token);
	gss_release_buffer(&ignored, &a->offer);
	gss_release_buffer(&ignored, &a->state);
	gss_release_buffer(&ignored, &a->source);
	gss_release_buffer(&ignored, &a->target);
}

// open_choice unwraps the client's answer to the offer. step 1 is ours, 2 the
// client's.
static OM_uint32 open_choice(void *state, size_t state_len, void *token, size_t token_len, gss_buffer_desc *plain, OM_uint32 *minor, int *step) {
	OM_uint32 ignored, major;
	gss_ctx_id_t ctx = GSS_C_NO_CONTEXT;
	gss_buffer_desc stored = buffer(state, state_len), in = buffer(token, token_len);
	*step = 1;
	major = gss_import_sec_context(minor, &stored, &ctx);
	if (major != GSS_S_COMPLETE) return major;
	*step = 2;
	major = gss_unwrap(minor, ctx, &in, plain, NULL, NULL);
	gss_delete_sec_context(&ignored, &ctx, GSS_C_NO_BUFFER);
	return major;
}

// told returns the text of a status, which the caller frees.
static char *told(OM_uint32 major, OM_uint32 minor) {
	OM_uint32 ignored, more = 0;
	gss_buffer_desc text = GSS_C_EMPTY_BUFFER;
	char *s = NULL;
	OM_uint32 type = GSS_ERROR(major) == GSS_S_FAILURE || minor != 0 ? GSS_C_MECH_CODE : GSS_C_GSS_CODE;
	if (gss_display_status(&ignored, type == GSS_C_MECH_CODE ? minor : major, type, (gss_OID)gss_mech_krb5, &more, &text) == GSS_S_COMPLETE)
		s = strndup(text.value, text.length);
	gss_release_buffer(&ignored, &text);
	return s;
}

// about_ticket reports whether a status says that the ticket is no good, rather
// than that this machine lacks something.
static int about_ticket(OM_uint32 major, OM_uint32 minor) {
	switch (GSS_ERROR(major)) {
	case GSS_S_DEFECTIVE_TOKEN: case GSS_S_DEFECTIVE_CREDENTIAL: case GSS_S_CREDENTIALS_EXPIRED:
	case GSS_S_BAD_BINDINGS: case GSS_S_BAD_MECH: case GSS_S_BAD_SIG:
		return 1;
	}
	if (major & (GSS_S_DUPLICATE_TOKEN | GSS_S_OLD_TOKEN)) return 1;
	switch ((int32_t)minor) {
	case (int32_t)KRB5KRB_AP_ERR_BAD_INTEGRITY: case (int32_t)KRB5KRB_AP_ERR_TKT_EXPIRED: case (int32_t)KRB5KRB_AP_ERR_REPEAT:
	case (int32_t)KRB5KRB_AP_ERR_BADMATCH: case (int32_t)KRB5KRB_AP_ERR_BADADDR: case (int32_t)KRB5KRB_AP_ERR_BADVERSION:
	case (int32_t)KRB5KRB_AP_ERR_MSG_TYPE: case (int32_t)KRB5KRB_AP_ERR_MODIFIED: case (int32_t)KRB5KRB_AP_ERR_INAPP_CKSUM:
	case (int32_t)KRB5KRB_AP_ERR_TKT_INVALID:
		return 1;
	}
	return 0;
}

// about_key reports whether no key fits the service the ticket is for.
static int about_key(OM_uint32 minor) {
	switch ((int32_t)minor) {
	case (int32_t)KRB5KRB_AP_ERR_NOT_US: case (int32_t)KRB5KRB_AP_WRONG_PRINC: case (int32_t)KRB5_KT_NOTFOUND:
		return 1;
	}
	return 0;
}

// next_principal calls for each principal of a keytab in turn; NULL at the end.
typedef struct { krb5_context ctx; krb5_keytab kt; krb5_kt_cursor cursor; int open; } keytab_reader;

static int open_keytab(const char *name, keytab_reader *r) {
	memset(r, 0, sizeof *r);
	if (krb5_init_context(&r->ctx) != 0) return -1;
	if (krb5_kt_resolve(r->ctx, name, &r->kt) != 0) return -1;
	if (krb5_kt_start_seq_get(r->ctx, r->kt, &r->cursor) != 0) return -1;
	r->open = 1;
	return 0;
}

static char *next_principal(keytab_reader *r) {
	krb5_keytab_entry entry;
	char *name = NULL, *copy;
	if (krb5_kt_next_entry(r->ctx, r->kt, &entry, &r->cursor) != 0) return NULL;
	if (krb5_unparse_name(r->ctx, entry.principal, &name) != 0) name = NULL;
	krb5_free_keytab_entry_contents(r->ctx, &entry);
	if (name == NULL) return strdup("");
	copy = strdup(name);
	krb5_free_unparsed_name(r->ctx, name);
	return copy;
}

static void close_keytab(keytab_reader *r) {
	if (r->open) krb5_kt_end_seq_get(r->ctx, r->kt, &r->cursor);
	if (r->kt != NULL) krb5_kt_close(r->ctx, r->kt);
	if (r->ctx != NULL) krb5_free_context(r->ctx);
}
*/
import "C"

import (
	"fmt"
	"strings"
	"unsafe"

	"github.com/postern-mail/postern/authn/gssapi"
)

// gssapiAvailable tells whether this binary can take tickets.
const gssapiAvailable = true

// Steps of take_ticket.
const (
	stepKey = iota + 1
	stepTicket
)

// takeTicket judges the first token of an exchange by the keys in keytab.
// state is what judgeChoice needs after it; it holds the session key.
func takeTicket(keytab string, b gssapi.Begin) (reply gssapi.Reply, state []byte) {
	if b.Policy == gssapi.BindingsIgnored {
		b.Bindings = ""
	}
	if b.Policy == gssapi.BindingsRequired && b.Bindings == "" {
		return refusal("channel bindings are required, and the connection has none"), nil
	}
	cKeytab := C.CString(keytab)
	defer C.free(unsafe.Pointer(cKeytab))
	token, bindings := C.CBytes(b.Token), C.CBytes([]byte(b.Bindings))
	defer C.free(token)
	defer C.free(bindings)
	var out C.accepted
	C.take_ticket(cKeytab, token, C.size_t(len(b.Token)), bindings, C.size_t(len(b.Bindings)), &out)
	defer C.release_accepted(&out)
	if out.major != C.GSS_S_COMPLETE {
		return failedTicket(&out, keytab, b), nil
	}
	source, target := text(out.source), text(out.target)
	switch {
	case out.flags&C.GSS_C_ANON_FLAG != 0:
		return refusal("anonymous ticket"), nil
	case b.Policy == gssapi.BindingsRequired && out.flags&C.GSS_C_CHANNEL_BOUND_FLAG == 0:
		return refusal("the client sent no channel bindings"), nil
	case !isFor(target, b.Service, b.Hosts):
		r := refusal(fmt.Sprintf("the ticket is for %s, not for %s", target, b.Service))
		r.Principal = source
		return r, nil
	}
	return gssapi.Reply{
		Outcome: gssapi.Challenge, Principal: source, Token: octets(out.token), Offer: octets(out.offer),
	}, octets(out.state)
}

// failedTicket classes what the library said against a token.
func failedTicket(out *C.accepted, keytab string, b gssapi.Begin) gssapi.Reply {
	said := told(out.major, out.minor)
	switch {
	case out.step == stepKey:
		return unsure("keytab " + keytab + ": " + said)
	case out.step != stepTicket:
		return unsure(said)
	case out.major == C.GSS_S_CONTINUE_NEEDED:
		return refusal("the client wants a second step, which is DCE's")
	case C.about_ticket(out.major, out.minor) != 0:
		return refusal(said)
	case C.about_key(out.minor) != 0 && holdsKeyOf(keytab, b.Service, b.Hosts):
		// We have a key of our own, and the ticket is not for it.
		return refusal(said)
	}
	return unsure(said)
}

// holdsKeyOf reports whether a keytab has any key of a service that tickets are
// taken for.
func holdsKeyOf(keytab, service string, hosts []string) bool {
	name := C.CString(keytab)
	defer C.free(unsafe.Pointer(name))
	var reader C.keytab_reader
	defer C.close_keytab(&reader)
	if C.open_keytab(name, &reader) != 0 {
		return false
	}
	for {
		principal := C.next_principal(&reader)
		if principal == nil {
			return false
		}
		found := isFor(C.GoString(principal), service, hosts)
		C.free(unsafe.Pointer(principal))
		if found {
			return true
		}
	}
}

// judgeChoice reads the client's choice of a security layer (RFC 4752 section
// 3.1): one octet for the layer, three for a size, then whom it wants to act as.
func judgeChoice(state, token []byte) gssapi.Reply {
	cState, cToken := C.CBytes(state), C.CBytes(token)
	defer C.free(cToken)
	defer func() {
		C.memset(cState, 0, C.size_t(len(state)))
		C.free(cState)
	}()
	var plain C.gss_buffer_desc
	var minor C.OM_uint32
	var step C.int
	major := C.open_choice(cState, C.size_t(len(state)), cToken, C.size_t(len(token)), &plain, &minor, &step)
	if major != C.GSS_S_COMPLETE {
		if said := told(major, minor); step == 2 {
			return refusal("choice of a security layer: " + said)
		} else {
			return unsure("choice of a security layer: " + said)
		}
	}
	choice := octets(plain)
	C.gss_release_buffer(&minor, &plain)
	return chosen(choice)
}

func octets(b C.gss_buffer_desc) []byte { return C.GoBytes(b.value, C.int(b.length)) }

func text(b C.gss_buffer_desc) string { return strings.ToValidUTF8(string(octets(b)), "?") }

func told(major, minor C.OM_uint32) string {
	s := C.told(major, minor)
	if s == nil {
		return fmt.Sprintf("status %#x, %d", uint32(major), int32(minor))
	}
	defer C.free(unsafe.Pointer(s))
	return strings.ToValidUTF8(C.GoString(s), "?")
}
