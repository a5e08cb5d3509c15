package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"

	"postern/shared/api"
	"postern/shared/secret"
)

// Bounds of one request.
const (
	callTimeout = 30 * time.Second // API Gateway gives up after 29 s
	maxReply    = 16 << 20         // bytes; Lambda answers at most 6 MB
)

// client asks the HTTP API of a deployment (dial), or of this machine's data
// folder (openFolder). Commands can't tell the difference.
//
// It asks a transport, and not an http.Client: so no redirect is followed, and
// the token goes nowhere but to where the user said.
type client struct {
	transport http.RoundTripper
	base      string        // the URL before the API's paths; "": this machine's data folder
	token     secret.String // empty: the folder asks for none
	notes     *notes        // nil: they are in the server's log
	status    int           // of the last answer
	close     func() error
}

// answer is a success of the API.
type answer struct {
	body []byte // JSON in one line; empty where the API says nothing
	tag  string // its ETag
}

// call sends a request, with body as JSON unless it is nil. A tag is the version
// that the request is about (If-Match); "" is any.
func (c *client) call(method, path string, body any, tag string) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	r, err := c.request(method, path, body, tag)
	if err != nil {
		return answer{}, err
	}
	sent := false
	trace := &httptrace.ClientTrace{WroteHeaders: func() { sent = true }}
	response, err := c.transport.RoundTrip(r.WithContext(httptrace.WithClientTrace(ctx, trace)))
	if err != nil {
		return answer{}, c.unreached(err, sent && method != http.MethodGet)
	}
	defer response.Body.Close()
	c.status = response.StatusCode
	text, err := io.ReadAll(io.LimitReader(response.Body, maxReply+1))
	switch {
	case err != nil:
		return answer{}, c.unreached(err, method != http.MethodGet)
	case len(text) > maxReply:
		return answer{}, c.foreign()
	case response.StatusCode >= 300:
		return answer{}, c.refusal(response, text)
	}
	var line bytes.Buffer
	if len(text) > 0 && json.Compact(&line, text) != nil {
		return answer{}, c.foreign()
	}
	return answer{line.Bytes(), response.Header.Get("ETag")}, nil
}

func (c *client) request(method, path string, body any, tag string) (*http.Request, error) {
	var content io.Reader = http.NoBody
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	r, err := http.NewRequest(method, c.base+path, content)
	if err != nil {
		return nil, err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if tag != "" {
		r.Header.Set("If-Match", tag)
	}
	if !c.token.IsEmpty() {
		r.Header.Set("Authorization", "Bearer "+c.token.Reveal())
	}
	r.Header.Set("User-Agent", "postern/"+api.Version)
	return r, nil
}

// unreached is the error of a request that got no answer, though it may have done
// what it was sent for.
func (c *client) unreached(err error, done bool) error {
	cure := "is the server running, and is this its URL?"
	switch {
	case done:
		cure = "what was asked for may be done all the same: look with `postern keys list`"
	case errors.As(err, new(*tls.CertificateVerificationError)):
		cure = "its certificate must be of an authority that this machine trusts"
	}
	return fmt.Errorf("%s doesn't answer (%s): %s", c.base, clean(err.Error()), cure)
}

// foreign is the error of a last answer that isn't Postern's.
func (c *client) foreign() error {
	return fmt.Errorf("%s answers %d, but not as Postern does: --url takes the address of its API, up to where /agents and /keys begin", c.base, c.status)
}

// refusal is the error of an answer that is none of success.
func (c *client) refusal(response *http.Response, body []byte) error {
	var p api.Problem
	switch {
	case response.StatusCode < 400:
		return fmt.Errorf("%s answers with a redirect to %.200q, and a token is not sent on: name the address itself with --url",
			c.base, response.Header.Get("Location"))
	case json.Unmarshal(body, &p) != nil || p.Error == "":
		return c.foreign()
	}
	text := p.Error + ": " + p.Detail
	if c.notes != nil {
		text = cmp.Or(c.notes.cause, text)
	}
	return fmt.Errorf("%s (request_id %s)", clean(text), clean(p.RequestID))
}

// list asks for a list, page by page, and yields its entries as the API has
// them. Each page has them in the member of that name; path has a query.
func (c *client) list(path, member, after string) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		for {
			query := ""
			if after != "" {
				query = "&after=" + url.QueryEscape(after)
			}
			entries, next, err := c.page(path+query, member)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, entry := range entries {
				if !yield(entry, nil) {
					return
				}
			}
			if next == nil {
				return
			}
			if !isBehind(*next, after) { // there would be no end
				yield(nil, c.foreign())
				return
			}
			after = *next
		}
	}
}

// isBehind reports whether a page that begins at next comes after the one that
// began at after: ids are of one length, and the numbers of events grow.
func isBehind(next, after string) bool {
	return cmp.Or(cmp.Compare(len(next), len(after)), strings.Compare(next, after)) > 0
}

func (c *client) page(path, member string) (entries []json.RawMessage, next *string, err error) {
	answer, err := c.call(http.MethodGet, path, nil, "")
	if err != nil {
		return nil, nil, err
	}
	var page map[string]json.RawMessage
	if json.Unmarshal(answer.body, &page) != nil ||
		json.Unmarshal(page[member], &entries) != nil ||
		json.Unmarshal(page["next"], &next) != nil ||
		next != nil && len(entries) == 0 {
		return nil, nil, c.foreign()
	}
	return entries, next, nil
}
