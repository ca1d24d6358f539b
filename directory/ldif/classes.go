package ldif

import (
	"slices"
	"strings"

	"github.com/postern-mail/postern/directory"
)

// superiors are the object classes that others imply (RFC 4519, RFC 2798 and
// those of AD and FreeIPA). A server knows them from its schema; a file may
// leave them out.
var superiors = map[string]string{
	"inetorgperson":        "organizationalPerson",
	"organizationalperson": "person",
	"residentialperson":    "person",
	"user":                 "organizationalPerson",
	"contact":              "organizationalPerson",
	"computer":             "user",
	"ipausergroup":         "nestedGroup",
	"nestedgroup":          "groupOfNames",
}

// withSuperiors returns e with the object classes its own ones imply.
func withSuperiors(e directory.Entry) directory.Entry {
	classes := slices.Clone(e.Values("objectClass"))
	before := len(classes)
	for i := 0; i < len(classes); i++ {
		superior := superiors[strings.ToLower(classes[i])]
		known := func(class string) bool { return strings.EqualFold(class, superior) }
		if superior != "" && !slices.ContainsFunc(classes, known) {
			classes = append(classes, superior)
		}
	}
	if len(classes) == before {
		return e
	}
	attributes := map[string][]string{}
	e.Each(func(name string, values []string) { attributes[name] = values })
	attributes["objectclass"] = classes
	return directory.NewEntry(e.DN, attributes)
}
