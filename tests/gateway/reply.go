package gateway

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"postern/tests/lambdahost"
)

// remapped are the headers of a function's reply that API Gateway gives the
// prefix x-amzn-Remapped-
// (https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-known-issues.html).
// Doubt: that page says "may be"; Via and Warning are left alone here.
var remapped = map[string]bool{
	"Authorization": true, "Connection": true, "Content-Md5": true, "Date": true,
	"Expect": true, "Host": true, "Max-Forwards": true, "Proxy-Authenticate": true,
	"Server": true, "Te": true, "Trailer": true, "Upgrade": true, "User-Agent": true,
	"Www-Authenticate": true,
}

// reply is a function's answer, buffered or the metadata of a stream.
type reply struct {
	status  int
	headers http.Header
	body    string
	base64  bool
}

// parseReply takes the output format of a Lambda proxy integration. Only the
// metadata of a stream may leave the status out (200) and set cookies.
func parseReply(payload []byte, streamed bool) (*reply, error) {
	var answer *struct {
		StatusCode        json.RawMessage              `json:"statusCode"`
		Headers           map[string]json.RawMessage   `json:"headers"`
		MultiValueHeaders map[string][]json.RawMessage `json:"multiValueHeaders"`
		Body              *string                      `json:"body"`
		IsBase64Encoded   bool                         `json:"isBase64Encoded"`
		Cookies           []string                     `json:"cookies"`
	}
	if err := json.Unmarshal(payload, &answer); err != nil {
		return nil, err
	}
	if answer == nil {
		return nil, errors.New("null is no reply")
	}
	r := &reply{headers: http.Header{}, base64: answer.IsBase64Encoded}
	if answer.Body != nil {
		r.body = *answer.Body
	}
	var err error
	if r.status, err = statusOf(answer.StatusCode, streamed); err != nil {
		return nil, err
	}
	multi := map[string][]json.RawMessage{}
	for name, values := range answer.MultiValueHeaders {
		multi[name] = values
	}
	for name, value := range answer.Headers { // merged; a pair that stands in both counts once
		if !containsRaw(multi[name], value) {
			multi[name] = append(multi[name], value)
		}
	}
	for name, values := range multi {
		for _, raw := range values {
			value, err := scalar(raw)
			if err != nil || strings.ContainsAny(name+value, "\r\n\x00") {
				return nil, fmt.Errorf("header %q isn't valid", name)
			}
			r.headers.Add(name, value)
		}
	}
	if streamed {
		for _, c := range answer.Cookies {
			r.headers.Add("Set-Cookie", c)
		}
	}
	return r, nil
}

func containsRaw(values []json.RawMessage, value json.RawMessage) bool {
	for _, v := range values {
		if bytes.Equal(v, value) {
			return true
		}
	}
	return false
}

func statusOf(raw json.RawMessage, streamed bool) (int, error) {
	if raw == nil && streamed {
		return http.StatusOK, nil
	}
	n, err := strconv.Atoi(strings.Trim(string(raw), `"`))
	if err != nil || n < 200 || n > 599 {
		return 0, fmt.Errorf("statusCode is %s", raw)
	}
	return n, nil
}

func (g *Gateway) writeBuffered(w http.ResponseWriter, x *exchange, payload []byte) *refusal {
	r, err := parseReply(payload, false)
	if err != nil {
		return internal()
	}
	body := []byte(r.body)
	// Base64 is undone only for a client that accepts one of the API's binary
	// media types; else it goes out as it is.
	accept, _, _ := strings.Cut(x.header("Accept"), ",")
	if r.base64 && g.binary(accept) {
		if body, err = base64.StdEncoding.DecodeString(r.body); err != nil {
			return internal()
		}
	}
	r.writeHeaders(w, x)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(r.status)
	w.Write(body)
	return nil
}

// writeStream sends the status and headers at once and each piece of the body
// as it arrives. After that a failure can only break the connection off.
func (g *Gateway) writeStream(ctx context.Context, w http.ResponseWriter, x *exchange, stream *lambdahost.Stream) *refusal {
	if stream == nil { // a buffered reply has no metadata
		return internal()
	}
	defer stream.Body.Close()
	r, err := parseReply(stream.Metadata, true)
	if err != nil {
		return internal()
	}
	r.writeHeaders(w, x)
	w.WriteHeader(r.status)
	out := http.NewResponseController(w)
	out.Flush()
	// The integration's timeout, or a client that left, ends the wait for more.
	defer context.AfterFunc(ctx, func() { stream.Body.Close() })()
	chunk := make([]byte, 32<<10)
	for {
		n, err := stream.Body.Read(chunk)
		if n > 0 {
			if _, err := w.Write(chunk[:n]); err != nil {
				return nil
			}
			out.Flush()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

func (r *reply) writeHeaders(w http.ResponseWriter, x *exchange) {
	header := w.Header()
	for name, values := range r.headers {
		switch {
		case name == "Content-Length" || name == "Transfer-Encoding":
			continue // computed
		case remapped[name]:
			name = "X-Amzn-Remapped-" + name
		}
		for _, v := range values {
			header.Add(name, v)
		}
	}
	if header.Get("Content-Type") == "" {
		header.Set("Content-Type", "application/json")
	}
	stamp(header, x)
}

// stamp adds what API Gateway puts on every answer.
func stamp(header http.Header, x *exchange) {
	header.Set("X-Amzn-Requestid", x.id)
	header.Set("X-Amz-Apigw-Id", x.extendedID)
	header.Set("X-Amzn-Trace-Id", x.traceID)
}
