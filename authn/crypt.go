package authn

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/go-crypt/crypt/algorithm"
	"github.com/go-crypt/crypt/algorithm/argon2"
	"github.com/go-crypt/crypt/algorithm/bcrypt"
	"github.com/go-crypt/crypt/algorithm/scrypt"
	"github.com/go-crypt/crypt/algorithm/shacrypt"
	"github.com/go-crypt/x/yescrypt"
)

// What one login may cost. A hash above these is refused when it is read: a
// single entry of a directory must not be able to stop everybody's logins.
const (
	maxSHACryptRounds  = 1_000_000
	maxBcryptCost      = 14
	maxHashMemoryKiB   = 256 << 10
	maxArgon2Passes    = 16
	maxArgon2Lanes     = 16
	maxYescryptLogN    = 18
	maxYescryptBlock   = 64
	bcryptPasswordSize = 72
)

// cryptScheme is one "$id$" of crypt(3) or of the PHC string format.
type cryptScheme struct {
	name      string
	decode    algorithm.DecodeFunc
	checkCost func(fields []string) error // fields after "$id$"
}

// cryptSchemes is a closed list: decoders are named one by one, because a
// decoder that guesses also takes cleartext and unbounded costs.
var cryptSchemes = map[string]cryptScheme{
	"5":        {"sha256-crypt", shacrypt.DecodeVariant(shacrypt.VariantSHA256), shaCryptWithin},
	"6":        {"sha512-crypt", shacrypt.DecodeVariant(shacrypt.VariantSHA512), shaCryptWithin},
	"2a":       {"bcrypt", bcrypt.DecodeVariant(bcrypt.VariantStandard), bcryptWithin},
	"2b":       {"bcrypt", bcrypt.DecodeVariant(bcrypt.VariantStandard), bcryptWithin},
	"2y":       {"bcrypt", bcrypt.DecodeVariant(bcrypt.VariantStandard), bcryptWithin},
	"argon2i":  {"argon2i", argon2.DecodeVariant(argon2.VariantI), argon2Within},
	"argon2id": {"argon2id", argon2.DecodeVariant(argon2.VariantID), argon2Within},
	"y":        {"yescrypt", scrypt.DecodeVariant(scrypt.VariantYescrypt), yescryptWithin},
}

// parseCrypt parses "$id$...".
func parseCrypt(stored string) (Hash, error) {
	fields := strings.Split(stored, "$")
	if len(fields) < 4 || fields[0] != "" {
		return Hash{}, fmt.Errorf("%w: not $id$salt$key", errHashMalformed)
	}
	scheme, known := cryptSchemes[fields[1]]
	if !known {
		return Hash{}, fmt.Errorf("%w %q", errHashScheme, clip(fields[1]))
	}
	if err := scheme.checkCost(fields[2:]); err != nil {
		return Hash{}, fmt.Errorf("%s: %w", scheme.name, err)
	}
	decoded, err := scheme.decode(stored)
	if err != nil {
		return Hash{}, fmt.Errorf("%s: %w", scheme.name, errHashMalformed)
	}
	match := decoded.MatchAdvanced
	if scheme.name == "bcrypt" {
		match = func(password string) (bool, error) { return decoded.MatchAdvanced(bcryptPassword(password)) }
	}
	return Hash{scheme: scheme.name, match: match}, nil
}

// bcryptPassword is as much of a password as bcrypt looks at. crypt(3) ignores
// the rest, so hashes made there match only so.
func bcryptPassword(password string) string {
	return password[:min(len(password), bcryptPasswordSize)]
}

// shaCryptWithin checks "[rounds=N$]salt$key". Below a thousand rounds
// crypt(3) itself computes a thousand, so such a hash is of another program.
func shaCryptWithin(fields []string) error {
	rounds, given := strings.CutPrefix(fields[0], "rounds=")
	if !given {
		if len(fields) != 2 {
			return errHashMalformed
		}
		return shaCryptSalt(fields[0])
	}
	if len(fields) != 3 {
		return errHashMalformed
	}
	if err := within("rounds", rounds, 1000, maxSHACryptRounds); err != nil {
		return err
	}
	return shaCryptSalt(fields[1])
}

func shaCryptSalt(salt string) error {
	if len(salt) > shacrypt.SaltLengthMax {
		return fmt.Errorf("%w: %d octets of salt", errHashMalformed, len(salt))
	}
	return nil
}

func bcryptWithin(fields []string) error {
	return within("cost", fields[0], 4, maxBcryptCost)
}

// argon2Within checks "v=19$m=KiB,t=passes,p=lanes$salt$key".
func argon2Within(fields []string) error {
	if len(fields) != 4 || fields[0] != "v=19" {
		return errHashMalformed
	}
	limits := map[string]int{"m": maxHashMemoryKiB, "t": maxArgon2Passes, "p": maxArgon2Lanes}
	for parameter := range strings.SplitSeq(fields[1], ",") {
		name, value, _ := strings.Cut(parameter, "=")
		most, known := limits[name]
		if !known {
			return fmt.Errorf("%w: parameter given twice or unknown", errHashMalformed)
		}
		if err := within(name, value, 1, most); err != nil {
			return err
		}
		delete(limits, name)
	}
	if len(limits) != 0 {
		return fmt.Errorf("%w: parameter missing", errHashMalformed)
	}
	return nil
}

func yescryptWithin(fields []string) error {
	_, logN, block, err := yescrypt.DecodeSetting([]byte(fields[0]))
	if err != nil {
		return errHashMalformed
	}
	if logN < 1 || logN > maxYescryptLogN || block < 1 || block > maxYescryptBlock || block<<logN>>3 > maxHashMemoryKiB {
		return fmt.Errorf("%w: N=2^%d r=%d", errHashCost, logN, block)
	}
	return nil
}

func within(name, value string, least, most int) error {
	n, err := strconv.Atoi(value)
	if err != nil {
		return fmt.Errorf("%w: %s is not a number", errHashMalformed, name)
	}
	if n < least || n > most {
		return fmt.Errorf("%w: %s is %d, allowed are %d to %d", errHashCost, name, n, least, most)
	}
	return nil
}
