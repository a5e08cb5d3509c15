package api

import (
	"net/http"
	"slices"
)

// What browsers are told, the same in gateway responses of template.yaml.
// "*" doesn't cover Authorization (Fetch standard, "CORS non-wildcard
// request-header name"), so it is named.
const (
	corsAllowHeaders  = "*, Authorization"
	corsAllowMethods  = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
	corsExposeHeaders = "RateLimit, RateLimit-Policy, Retry-After, Location, ETag, X-Request-Id"
	corsMaxAge        = "600"
)

// cors is the origins whose pages may read replies: none (nil), those listed,
// or every one ("*"). Credentials in the browser's sense are never allowed, so
// a page must hold the token itself.
//
// The headers are constant strings, because API Gateway's own responses carry
// the same ones and can't compute any. So a single origin is always named, even
// to others: the browser compares.
type cors []string

// set writes the headers that every reply to a page needs.
func (c cors) set(h http.Header, origin string) {
	switch {
	case len(c) == 0:
		return
	case len(c) == 1:
		h.Set("Access-Control-Allow-Origin", c[0])
	case origin != "" && slices.Contains(c, origin):
		h.Set("Access-Control-Allow-Origin", origin)
	}
	if c[0] != "*" {
		h.Add("Vary", "Origin")
	}
	if h.Get("Access-Control-Allow-Origin") != "" {
		h.Set("Access-Control-Expose-Headers", corsExposeHeaders)
	}
}

// preflight answers any OPTIONS request. Without CORS it is still 204, so that
// it tells nothing about what is behind.
func (c cors) preflight(w http.ResponseWriter) {
	if h := w.Header(); h.Get("Access-Control-Allow-Origin") != "" {
		h.Set("Access-Control-Allow-Methods", corsAllowMethods)
		h.Set("Access-Control-Allow-Headers", corsAllowHeaders)
		h.Set("Access-Control-Max-Age", corsMaxAge)
	}
	w.WriteHeader(http.StatusNoContent)
}
