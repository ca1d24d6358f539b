//go:build cgo && (pam || gssapi)

package process

/*
#include <errno.h>
#include <grp.h>
#include <nss.h>
#include <pwd.h>
#include <stdlib.h>

#ifdef __GLIBC__
static int choose(const char *source) {
	int e = __nss_configure_lookup("passwd", source);
	return e != 0 ? e : __nss_configure_lookup("group", source);
}
#else
static int choose(const char *source) { return 0; }
#endif

// silent is in errno before a lookup: a source that fails without saying why
// must not look like one that knows nobody, for which the library returns 0.
enum { silent = EPROTO };

static int find_user(const char *name, struct passwd *pw, char *buf, size_t n, int *found) {
	struct passwd *result = NULL;
	errno = silent;
	int e = getpwnam_r(name, pw, buf, n, &result);
	*found = result != NULL;
	return e;
}

static int find_group(const char *name, struct group *gr, char *buf, size_t n, int *found) {
	struct group *result = NULL;
	errno = silent;
	int e = getgrnam_r(name, gr, buf, n, &result);
	*found = result != NULL;
	return e;
}

static char *member(struct group *gr, int i) { return gr->gr_mem[i]; }
*/
import "C"

import (
	"fmt"
	"syscall"
	"unsafe"

	"github.com/postern-mail/postern/authn/nss"
)

// usersAvailable tells whether this binary can ask the name service switch.
const usersAvailable = true

// chooseSource makes a source the only one of this process. It comes before the
// first lookup: the library remembers.
func chooseSource(source string) error {
	name := C.CString(source)
	defer C.free(unsafe.Pointer(name))
	if e := C.choose(name); e != 0 {
		return fmt.Errorf("auth-helper worker: choose source %s: error %d", source, int(e))
	}
	return nil
}

// lookUp asks the source. The record of a big group takes much room, which is
// bounded by what a message holds.
func lookUp(q nss.Question) nss.Answer {
	for size := 4 << 10; size <= 2*nss.MaxMessageOctets; size *= 4 {
		answer, err := lookUpIn(q, size)
		if err == syscall.ERANGE {
			continue
		}
		if err != 0 {
			return nss.Answer{Detail: err.Error()}
		}
		return answer
	}
	return nss.Answer{Detail: "the entry is too large"}
}

func lookUpIn(q nss.Question, size int) (nss.Answer, syscall.Errno) {
	name := C.CString(q.Name)
	defer C.free(unsafe.Pointer(name))
	buf := (*C.char)(C.malloc(C.size_t(size)))
	defer C.free(unsafe.Pointer(buf))
	var found C.int
	if q.Kind == nss.Group {
		var gr C.struct_group
		if e := C.find_group(name, &gr, buf, C.size_t(size), &found); e != 0 || found == 0 {
			return nss.Answer{Outcome: nss.Absent}, syscall.Errno(e)
		}
		answer := nss.Answer{Outcome: nss.Found, Name: C.GoString(gr.gr_name), GID: uint32(gr.gr_gid)}
		for i := C.int(0); gr.gr_mem != nil && C.member(&gr, i) != nil; i++ {
			answer.Members = append(answer.Members, C.GoString(C.member(&gr, i)))
		}
		return answer, 0
	}
	var pw C.struct_passwd
	if e := C.find_user(name, &pw, buf, C.size_t(size), &found); e != 0 || found == 0 {
		return nss.Answer{Outcome: nss.Absent}, syscall.Errno(e)
	}
	return nss.Answer{
		Outcome: nss.Found, Name: C.GoString(pw.pw_name), UID: uint32(pw.pw_uid), GID: uint32(pw.pw_gid),
		Comment: C.GoString(pw.pw_gecos), Home: C.GoString(pw.pw_dir), Shell: C.GoString(pw.pw_shell),
	}, 0
}
