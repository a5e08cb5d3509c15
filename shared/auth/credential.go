package auth

import (
	"strings"

	"postern/shared/secret"
)

// Credential reads the token of a request from all values of its Authorization
// and of its X-API-Key header:
//
//	Authorization: Bearer <token>     RFC 6750 §2.1; the scheme in any case,
//	                                  one or more spaces after it (RFC 9110 §11.1)
//	X-API-Key: <token>
//
// Either will do, and both if they agree. Anything else is a Reason: it is
// never guessed which of two credentials was meant, and no part of a value is
// cut out to find a token in it. The two being compared here are the caller's
// own, so plain equality gives nothing away.
func Credential(authorization, apiKey []string) (string, error) {
	if len(authorization) > 1 || len(apiKey) > 1 {
		return "", Conflict
	}
	if len(authorization) == 0 && len(apiKey) == 0 {
		return "", NoCredential
	}
	var token string
	if len(authorization) == 1 {
		scheme, rest, _ := strings.Cut(authorization[0], " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return "", BadScheme
		}
		token = strings.TrimLeft(rest, " ")
	}
	if len(apiKey) == 1 {
		if len(authorization) == 1 && apiKey[0] != token {
			return "", Conflict
		}
		token = apiKey[0]
	}
	if !secret.WellFormed(token) {
		return "", Malformed
	}
	return token, nil
}
