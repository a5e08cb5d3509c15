package auth_test

import (
	"errors"
	"strings"
	"testing"

	"postern/shared/auth"
	"postern/shared/secret"
)

const token = "Zm9vYmFyMDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1ub3A"

// credentials are the cases of contract §2. A header of nil was not sent.
var credentials = []struct {
	name          string
	authorization []string
	apiKey        []string
	want          string
	reason        auth.Reason // if want is ""
	failure       string      // elsewhere, or the promise
}{
	// What is accepted.
	{name: "a bearer token", authorization: []string{"Bearer " + token}, want: token},
	{name: "a bearer token in small letters", authorization: []string{"bearer " + token}, want: token, failure: "I4"},
	{name: "a bearer token in capitals", authorization: []string{"BEARER " + token}, want: token, failure: "I4"},
	{name: "a bearer token in any case", authorization: []string{"bEaReR " + token}, want: token, failure: "I4"},
	{name: "several spaces after the scheme", authorization: []string{"Bearer    " + token}, want: token},
	{name: "an API key", apiKey: []string{token}, want: token},
	{name: "both headers with the same token", authorization: []string{"Bearer " + token}, apiKey: []string{token}, want: token},
	{name: "both headers with the same token, spaces aside", authorization: []string{"bearer   " + token}, apiKey: []string{token}, want: token},
	{name: "one byte", apiKey: []string{"x"}, want: "x"},
	{name: "exactly 512 bytes", apiKey: []string{strings.Repeat("x", 512)}, want: strings.Repeat("x", 512)},
	{name: "exactly 512 bytes after the scheme", authorization: []string{"Bearer " + strings.Repeat("x", 512)}, want: strings.Repeat("x", 512)},
	{name: "the lowest and the highest byte", apiKey: []string{"!~"}, want: "!~"},
	{name: "a comma, which no list is made of", authorization: []string{"Bearer a,b"}, want: "a,b"},
	{name: "a token that is called Bearer", authorization: []string{"Bearer Bearer"}, want: "Bearer"},

	// Nothing there.
	{name: "no header at all", reason: auth.NoCredential},
	{name: "headers without values", authorization: []string{}, apiKey: []string{}, reason: auth.NoCredential},

	// The scheme.
	{name: "no scheme", authorization: []string{token}, reason: auth.BadScheme, failure: "I4"},
	{name: "another scheme", authorization: []string{"Basic " + token}, reason: auth.BadScheme},
	{name: "another scheme beside a good API key", authorization: []string{"Basic dTpw"}, apiKey: []string{token}, reason: auth.BadScheme},
	{name: "no scheme beside the same API key", authorization: []string{token}, apiKey: []string{token}, reason: auth.BadScheme, failure: "I4"},
	{name: "an empty Authorization", authorization: []string{""}, reason: auth.BadScheme},
	{name: "an empty Authorization beside a good API key", authorization: []string{""}, apiKey: []string{token}, reason: auth.BadScheme},
	{name: "a space before the scheme", authorization: []string{" Bearer " + token}, reason: auth.BadScheme},
	{name: "a tab after the scheme", authorization: []string{"Bearer\t" + token}, reason: auth.BadScheme},
	{name: "nothing between scheme and token", authorization: []string{"Bearer" + token}, reason: auth.BadScheme, failure: "I4"},
	{name: "a colon after the scheme", authorization: []string{"Bearer: " + token}, reason: auth.BadScheme},
	{name: "a scheme that begins like it", authorization: []string{"BearerX " + token}, reason: auth.BadScheme},
	{name: "a scheme that ends like it", authorization: []string{"XBearer " + token}, reason: auth.BadScheme},
	{name: "half the scheme", authorization: []string{"Bear " + token}, reason: auth.BadScheme},
	{name: "a scheme in letters that only look so", authorization: []string{"Веarer " + token}, reason: auth.BadScheme, failure: "I3"},
	{name: "the scheme spliced into the token", authorization: []string{token[:9] + "Bearer " + token[9:]}, reason: auth.BadScheme, failure: "I4"},
	{name: "an AWS signature", authorization: []string{"AWS4-HMAC-SHA256 Credential=a/b, Signature=c"}, reason: auth.BadScheme},

	// Which of two is meant is never guessed.
	{name: "Authorization twice", authorization: []string{"Bearer " + token, "Bearer other"}, reason: auth.Conflict},
	{name: "Authorization twice, the same", authorization: []string{"Bearer " + token, "Bearer " + token}, reason: auth.Conflict},
	{name: "Authorization twice beside a good API key", authorization: []string{"Bearer " + token, "Basic x"}, apiKey: []string{token}, reason: auth.Conflict},
	{name: "X-API-Key twice", apiKey: []string{token, "other"}, reason: auth.Conflict},
	{name: "X-API-Key twice, the same", apiKey: []string{token, token}, reason: auth.Conflict},
	{name: "X-API-Key twice beside a good bearer token", authorization: []string{"Bearer " + token}, apiKey: []string{token, token}, reason: auth.Conflict},
	{name: "X-API-Key twice, one empty", apiKey: []string{token, ""}, reason: auth.Conflict},
	{name: "both headers with different tokens", authorization: []string{"Bearer " + token}, apiKey: []string{"other"}, reason: auth.Conflict},
	{name: "both headers, one in another case", authorization: []string{"Bearer " + token}, apiKey: []string{strings.ToLower(token)}, reason: auth.Conflict},
	{name: "both headers, one with a space after", authorization: []string{"Bearer " + token}, apiKey: []string{token + " "}, reason: auth.Conflict},
	{name: "both headers, the API key with a scheme", authorization: []string{"Bearer " + token}, apiKey: []string{"Bearer " + token}, reason: auth.Conflict},
	{name: "an empty bearer token beside a good API key", authorization: []string{"Bearer "}, apiKey: []string{token}, reason: auth.Conflict},
	{name: "an empty API key beside a good bearer token", authorization: []string{"Bearer " + token}, apiKey: []string{""}, reason: auth.Conflict},

	// The token.
	{name: "the scheme alone", authorization: []string{"Bearer"}, reason: auth.Malformed},
	{name: "the scheme and a space", authorization: []string{"Bearer "}, reason: auth.Malformed},
	{name: "the scheme and spaces", authorization: []string{"Bearer     "}, reason: auth.Malformed},
	{name: "an empty API key", apiKey: []string{""}, reason: auth.Malformed},
	{name: "both empty", authorization: []string{"Bearer "}, apiKey: []string{""}, reason: auth.Malformed},
	{name: "513 bytes", apiKey: []string{strings.Repeat("x", 513)}, reason: auth.Malformed},
	{name: "513 bytes after the scheme", authorization: []string{"Bearer " + strings.Repeat("x", 513)}, reason: auth.Malformed},
	{name: "a megabyte", apiKey: []string{strings.Repeat("x", 1<<20)}, reason: auth.Malformed, failure: "P15"},
	{name: "a megabyte of spaces", authorization: []string{"Bearer " + strings.Repeat(" ", 1<<20)}, reason: auth.Malformed, failure: "P15"},
	{name: "a space after the token", authorization: []string{"Bearer " + token + " "}, reason: auth.Malformed},
	{name: "a space after the API key", apiKey: []string{token + " "}, reason: auth.Malformed},
	{name: "a space before the API key", apiKey: []string{" " + token}, reason: auth.Malformed},
	{name: "a tab after the scheme's space", authorization: []string{"Bearer \t" + token}, reason: auth.Malformed},
	{name: "a space inside", authorization: []string{"Bearer " + token[:9] + " " + token[9:]}, reason: auth.Malformed},
	{name: "the scheme twice", authorization: []string{"Bearer Bearer " + token}, reason: auth.Malformed, failure: "I4"},
	{name: "two tokens in one header", authorization: []string{"Bearer " + token + ", Bearer other"}, reason: auth.Malformed},
	{name: "an API key with the scheme", apiKey: []string{"Bearer " + token}, reason: auth.Malformed},
	{name: "a newline", apiKey: []string{token + "\n"}, reason: auth.Malformed},
	{name: "a NUL", apiKey: []string{token + "\x00"}, reason: auth.Malformed},
	{name: "a DEL", apiKey: []string{token + "\x7f"}, reason: auth.Malformed},
	{name: "a letter beyond ASCII", apiKey: []string{"tökén"}, reason: auth.Malformed, failure: "I3"},
	{name: "a letter beyond ASCII after the scheme", authorization: []string{"Bearer tökén"}, reason: auth.Malformed, failure: "I3"},
	{name: "bytes that are no UTF-8", authorization: []string{"Bearer \xff\xfe"}, reason: auth.Malformed, failure: "I3"},
	{name: "letters that are equal to ASCII ones in some collations", apiKey: []string{"ｔｏｋｅｎ"}, reason: auth.Malformed, failure: "I3"},
}

// TestCredential is contract §2, and I3 and I4.
func TestCredential(t *testing.T) {
	t.Parallel()
	for _, row := range credentials {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			got, err := auth.Credential(row.authorization, row.apiKey)
			if got != row.want {
				t.Errorf("the token is %.60q, want %.60q %s", got, row.want, row.failure)
			}
			if row.want == "" && err != row.reason || row.want != "" && err != nil {
				t.Errorf("the reason is %v, want %v %s", err, row.reason, row.failure)
			}
		})
	}
}

// TestCredentialEveryByte: 0x21 to 0x7E and nothing else, in either header, I3.
func TestCredentialEveryByte(t *testing.T) {
	t.Parallel()
	for b := range 256 {
		value := "ab" + string([]byte{byte(b)}) + "cd"
		visible := b >= 0x21 && b <= 0x7e
		if got, err := auth.Credential(nil, []string{value}); (err == nil) != visible || visible && got != value {
			t.Errorf("byte %#02x in X-API-Key: %q, %v", b, got, err)
		}
		if got, err := auth.Credential([]string{"Bearer " + value}, nil); (err == nil) != visible || visible && got != value {
			t.Errorf("byte %#02x in Authorization: %q, %v", b, got, err)
		}
	}
}

// FuzzCredential: no headers make a panic (P15), and a token is a value that
// was sent, whole, in every header that was.
func FuzzCredential(f *testing.F) {
	for _, row := range credentials {
		f.Add(len(row.authorization), at(row.authorization, 0), at(row.authorization, 1), len(row.apiKey), at(row.apiKey, 0), at(row.apiKey, 1))
	}
	f.Fuzz(func(t *testing.T, n int, a0, a1 string, m int, k0, k1 string) {
		authorization := []string{a0, a1}[:((n%3)+3)%3]
		apiKey := []string{k0, k1}[:((m%3)+3)%3]
		got, err := auth.Credential(authorization, apiKey)
		if err != nil {
			var reason auth.Reason
			if got != "" || !errors.As(err, &reason) {
				t.Errorf("%q with the error %v", got, err)
			}
			return
		}
		if !secret.WellFormed(got) {
			t.Errorf("%q is not well-formed", got)
		}
		if len(authorization)+len(apiKey) == 0 || len(authorization) > 1 || len(apiKey) > 1 {
			t.Errorf("accepted from %q, %q", authorization, apiKey)
		}
		for _, value := range apiKey {
			if value != got {
				t.Errorf("%q is not the X-API-Key %q", got, value)
			}
		}
		for _, value := range authorization {
			scheme, spaces := value[:min(len(value), 6)], strings.TrimSuffix(value[min(len(value), 6):], got)
			if !strings.EqualFold(scheme, "bearer") || spaces == "" || strings.Trim(spaces, " ") != "" || scheme+spaces+got != value {
				t.Errorf("%q is not the bearer token of %q", got, value)
			}
		}
	})
}

func at(values []string, i int) string {
	if i < len(values) {
		return values[i]
	}
	return ""
}
