package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"postern/shared/check"
)

// allowed are the response headers that may differ between the two sides, and
// why. The README lists them for people (TestTheREADMEListsTheDifferences).
var allowed = map[string]string{
	"Strict-Transport-Security": "API Gateway is always TLS; locally with API_TLS_CERT",
	"X-Amzn-Requestid":          "API Gateway's own",
	"X-Amzn-Errortype":          "API Gateway's own, on its gateway responses",
	"X-Amz-Apigw-Id":            "API Gateway's own",
	"X-Amzn-Trace-Id":           "API Gateway's own",
	"Date":                      "the moment",
	"X-Request-Id":              "the request",
	"Ratelimit":                 "the moment, and what was counted before",
	"Retry-After":               "the moment",
	"Content-Length":            "a matter of the transport; the bodies are compared",
	"Transfer-Encoding":         "a matter of the transport; the bodies are compared",
	"Connection":                "API Gateway owns its connections",
}

// differences compares two answers to one case, about a key of each side if there
// is one.
func differences(a, b *check.Response, keyA, keyB string) []string {
	var found []string
	if a.Status != b.Status {
		found = append(found, fmt.Sprintf("status %d here, %d on Lambda", a.Status, b.Status))
	}
	names := map[string]bool{}
	for name := range a.Header {
		names[name] = true
	}
	for name := range b.Header {
		names[name] = true
	}
	for name := range names {
		x, y := jobIDs.ReplaceAllString(strings.Join(a.Header[name], "; "), "<job>"), jobIDs.ReplaceAllString(strings.Join(b.Header[name], "; "), "<job>")
		if name == "Location" {
			y = strings.TrimPrefix(y, "/prod") // where the API is
		}
		if name == "Content-Type" && len(a.Body) == 0 && len(b.Body) == 0 {
			continue // API Gateway gives one even to a 204
		}
		if name == "Www-Authenticate" && a.Status == http.StatusForbidden && x == `Bearer error="insufficient_scope"` && y == "" {
			continue // API Gateway would rename a function's
		}
		if _, free := allowed[name]; !free && x != y {
			found = append(found, fmt.Sprintf("header %s: %q here, %q on Lambda", name, x, y))
		}
	}
	slices.Sort(found)
	if x, y := body(a, keyA), body(b, keyB); x != y {
		found = append(found, fmt.Sprintf("body here:\n%s\non Lambda:\n%s", x, y))
	}
	return found
}

// moments are the members of replies that tell when.
var moments = regexp.MustCompile(`"(created|created_at|started_at|finished_at|createdAt|startedAt|completedAt|executionTimeMs|last_used_at|time|hour|request_id)":("[^"]*"|\d+)|"(previous_)?hash":"[0-9a-f]+"|begins in \d+ seconds`)

// jobIDs are the ids of jobs, which are made by chance.
var jobIDs = regexp.MustCompile(`\b[A-Z2-7]{26}\b`)

// body is a response's body without what belongs to one request, its id and its
// moment, or to one side, the id of its key. JSON is compared as such: gateway
// responses are laid out otherwise.
func body(r *check.Response, key string) string {
	text := strings.ReplaceAll(string(r.Body), r.Header.Get("X-Request-Id"), "<request id>")
	if key != "" {
		text = strings.ReplaceAll(text, key, "<key>")
	}
	var v any
	if json.Unmarshal([]byte(text), &v) == nil {
		canonical, _ := json.Marshal(v)
		text = string(canonical)
	}
	return jobIDs.ReplaceAllString(moments.ReplaceAllString(text, "<moment>"), "<job>")
}

func TestTheREADMEListsTheDifferences(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, found := strings.Cut(string(readme), "## What differs on AWS")
	if !found {
		t.Fatal("the README has no section «What differs on AWS»")
	}
	list, _, _ = strings.Cut(list, "\n## ")
	for _, name := range []string{"Strict-Transport-Security", "WWW-Authenticate", "X-Amzn-RequestId", "X-Amz-Apigw-Id", "X-Amzn-ErrorType", "Content-Type"} {
		if !strings.Contains(strings.ToLower(list), strings.ToLower(name)) {
			t.Errorf("the README's list of differences lacks %s", name)
		}
	}
}
