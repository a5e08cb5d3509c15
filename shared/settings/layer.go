package settings

import (
	"cmp"
	"fmt"
	"strings"

	"postern/shared/secret"
)

// Layer is one place that settings come from.
type Layer struct {
	// Lookup returns what stands under a setting's name or one of its aliases.
	// A layer that has no aliases (flags, deploy.api) simply knows none.
	Lookup func(name string) Entry

	// Warnings are shown whether or not an Entry of this layer is in force:
	// that a secret stands in a file people share is one.
	Warnings []string
}

// Entry is one value as it was written.
type Entry struct {
	Text    string // "": unset
	Origin  string // where it stands: "--port", ".env: API_PORT", "agents.yaml:12: deploy.api.port"; "": the name says it
	Warning string // shown if this entry is the one in force; "": none
}

// Environment is the layer of an environment, usually os.Getenv's.
func Environment(getenv func(name string) string) Layer {
	return Layer{Lookup: func(name string) Entry { return Entry{Text: getenv(name), Origin: name} }}
}

// Dotenv is the layer of a file of variables; file is its name in messages.
func Dotenv(file string, values map[string]string) Layer {
	return Layer{Lookup: func(name string) Entry { return Entry{Text: values[name], Origin: file + ": " + name} }}
}

// Entries is a layer of entries by setting name.
func Entries(entries map[string]Entry, warnings ...string) Layer {
	return Layer{Lookup: func(name string) Entry { return entries[name] }, Warnings: warnings}
}

// find returns the entry in force: the first layer's that has the setting
// under any of its names. Several names may stand in one layer if they say the
// same.
func (s Setting) find(layers []Layer) (found Entry, faults []error) {
	for _, layer := range layers {
		found, faults = s.findIn(layer)
		if found.Text != "" || faults != nil {
			break
		}
	}
	return found, faults
}

func (s Setting) findIn(layer Layer) (found Entry, faults []error) {
	for _, name := range s.Names() {
		e := layer.Lookup(name)
		if e.Text == "" {
			continue
		}
		e.Origin = cmp.Or(e.Origin, name)
		cure := "keep one of them"
		if name == txtaiToken {
			digits := strings.TrimSpace(e.Text)
			if _, ok := secret.ParseDigest(digits); !ok {
				faults = append(faults, fmt.Errorf("%s: it is not a SHA-256 digest; it takes the bare 64 hexadecimal digits of one, %s", e.Origin, unsetToken))
				continue
			}
			e.Text = digestPrefix + digits
			cure += ", " + unsetToken
		}
		if found.Text == "" {
			found = e
		} else if !s.same(found.Text, e.Text) {
			faults = append(faults, fmt.Errorf("%s and %s: two names of one setting with different values; %s", found.Origin, e.Origin, cure))
		}
	}
	return found, faults
}

// same reports whether two values of one setting mean the same. A token may be
// given once in clear and once as its digest.
func (s Setting) same(a, b string) bool {
	if strings.TrimSpace(a) == strings.TrimSpace(b) {
		return true
	}
	if !s.Secret {
		return false
	}
	x, errX := secret.ParseConfigured(a)
	y, errY := secret.ParseConfigured(b)
	return errX == nil && errY == nil && x.Equal(y)
}

const (
	// txtaiToken is the one alias of API_TOKEN that takes a bare digest, and
	// the one so common that somebody else's value may stand in it.
	txtaiToken = "TOKEN"
	unsetToken = "or `unset TOKEN` if it is not meant for Postern"

	digestPrefix = "sha256:"
)
