// Package dynamofake is a fake of Amazon DynamoDB at the level of the wire, for
// tests that use the real AWS SDK.
//
// Start serves GetItem, PutItem, UpdateItem, DeleteItem and Query (AWS JSON 1.0)
// on loopback; Create makes a table with the string keys pk and sk. Expressions
// are read by DynamoDB's grammar as far as ours go (expression.go), items are at
// most 400 KB and pages 1 MB. Each request is atomic. What the fake doesn't know
// it refuses, with a ValidationException, and lists in Violations, where a
// request stands too that wasn't signed or read without consistency: every test
// of ours should find it empty.
//
// Authorize has somebody decide which calls are allowed, as IAM does; others are
// refused as DynamoDB refuses them, and are Violations too.
//
// Inject makes calls fail in the ways that services fail: errors, throttles,
// answers that are late, lost or garbage, connections that break. Calls counts
// what arrived. Nothing here knows the time: like DynamoDB's own clean-up, which
// may take days, the fake never removes an expired item.
package dynamofake

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

const (
	account    = "123456789012"
	region     = "us-east-1"
	maxRequest = 16 << 20
)

// Server is one region's DynamoDB. It is safe for concurrent use.
type Server struct {
	// URL is what a client takes as its BaseEndpoint, or AWS_ENDPOINT_URL_DYNAMODB.
	URL string

	http   *httptest.Server
	closed chan struct{}

	mu         sync.Mutex
	tables     map[string]tableItems
	allows     func(principal, action, resource, leadingKey string) bool // nil: everything
	faults     []*Fault
	calls      map[string]int
	total      int
	arrived    chan struct{} // closed and replaced at each call
	violations []string
}

// Start serves until Close.
func Start() *Server {
	s := &Server{
		closed:  make(chan struct{}),
		tables:  map[string]tableItems{},
		calls:   map[string]int{},
		arrived: make(chan struct{}),
	}
	s.http = httptest.NewServer(s)
	s.URL = s.http.URL
	return s
}

// Close lets hanging calls go and stops the server.
func (s *Server) Close() {
	close(s.closed)
	s.http.Close()
}

// Create makes an empty table, in place of one of that name.
func (s *Server) Create(table string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tables[table] = tableItems{}
}

// ARN is how IAM's policies name a table.
func ARN(table string) string {
	return "arn:aws:dynamodb:" + region + ":" + account + ":table/" + table
}

// Authorize has allows asked about each call before it is done: by whom, which is
// the access key's id in its signature, what ("dynamodb:GetItem"), of which table
// (an ARN), and with which partition key.
func (s *Server) Authorize(allows func(principal, action, resource, leadingKey string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allows = allows
}

// Calls returns how many calls of an operation arrived, failed ones too; of ""
// how many of all.
func (s *Server) Calls(operation string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if operation == "" {
		return s.total
	}
	return s.calls[operation]
}

// Await returns as soon as n calls have arrived in all, answered or not, or
// with ctx's error.
func (s *Server) Await(ctx context.Context, n int) error {
	for {
		s.mu.Lock()
		total, next := s.total, s.arrived
		s.mu.Unlock()
		if total >= n {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Errorf("waiting for call %d, %d have come: %w", n, total, ctx.Err())
		}
	}
}

// Violations describes the calls that broke a rule; see the package.
func (s *Server) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.violations)
}

// signature is what SigV4 leaves in a request for this service: first the access
// key's id. It is not verified: the fake doesn't know the caller's key.
var signature = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^/ ]+)/\d{8}/[a-z0-9-]+/dynamodb/aws4_request, ?SignedHeaders=[a-z0-9;-]*\bhost\b[a-z0-9;-]*, ?Signature=[0-9a-f]{64}$`)

// ServeHTTP implements http.Handler. Start has connected it already.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		return // the client has left, or sends too much
	}
	operation, known := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "DynamoDB_20120810.")
	x := &exchange{w: w, r: r, closed: s.closed, serve: func() reply {
		signer := signature.FindStringSubmatch(r.Header.Get("Authorization"))
		switch {
		case r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-amz-json-1.0" || !known:
			return s.refuse("UnknownOperationException", "")
		case signer == nil || r.Header.Get("X-Amz-Date") == "":
			return s.refuse("MissingAuthenticationTokenException", "the request isn't signed with SigV4")
		}
		return s.operate(signer[1], operation, body)
	}}
	if fault := s.arrive(operation); fault != nil {
		fault.act(x)
		return
	}
	x.answer(x.serve())
}

// arrive counts a call and returns the fault that is due for it, if any.
func (s *Server) arrive(operation string) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[operation]++
	s.total++
	close(s.arrived)
	s.arrived = make(chan struct{})
	for i, f := range s.faults {
		if f.operation != "" && f.operation != operation {
			continue
		}
		if f.times > 0 {
			if f.times--; f.times == 0 {
				s.faults = slices.Delete(s.faults, i, i+1)
			}
		}
		return f
	}
	return nil
}

// operate does one request of principal's, all of it or nothing.
func (s *Server) operate(principal, operation string, body []byte) reply {
	var in request
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		return s.refuse("ValidationException", "not known here: "+err.Error())
	}
	do, known := map[string]func(tableItems, *request) (any, error){
		"GetItem": getItem, "PutItem": putItem, "UpdateItem": updateItem, "DeleteItem": deleteItem, "Query": query,
	}[operation]
	if !known {
		return s.refuse("UnknownOperationException", "not known here: "+operation)
	}
	s.mu.Lock()
	items, known := s.tables[in.TableName]
	if action, key := "dynamodb:"+operation, in.leadingKey(); s.allows != nil && !s.allows(principal, action, ARN(in.TableName), key) {
		s.mu.Unlock()
		return s.deny(principal, action, ARN(in.TableName), key)
	}
	if !known {
		s.mu.Unlock()
		return failure(http.StatusBadRequest, "ResourceNotFoundException", "Requested resource not found", nil)
	}
	out, err := do(items, &in)
	s.mu.Unlock()
	switch err := err.(type) {
	case nil:
		encoded, _ := json.Marshal(out) // can't fail: strings, numbers and bytes
		return reply{http.StatusOK, encoded}
	case *unmet:
		return failure(http.StatusBadRequest, "ConditionalCheckFailedException", "The conditional request failed", err.item)
	default:
		return s.refuse("ValidationException", err.Error())
	}
}

// refuse answers what we should never send.
func (s *Server) refuse(code, why string) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.violations = append(s.violations, fmt.Sprintf("%s: %s", code, why))
	return failure(http.StatusBadRequest, code, why, nil)
}

// deny answers what IAM doesn't allow. AWS doesn't say which partition it was.
func (s *Server) deny(principal, action, resource, leadingKey string) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	why := fmt.Sprintf("User: arn:aws:sts::%s:assumed-role/%s is not authorized to perform: %s on resource: %s because no identity-based policy allows the %[3]s action",
		account, principal, action, resource)
	s.violations = append(s.violations, fmt.Sprintf("AccessDeniedException: %s (partition %q)", why, leadingKey))
	body, _ := json.Marshal(map[string]string{"__type": "com.amazon.coral.service#AccessDeniedException", "Message": why}) // can't fail
	return reply{http.StatusBadRequest, body}
}

// reply is an answer that hasn't been sent yet.
type reply struct {
	status int
	body   []byte
}

// failure is an error as AWS JSON 1.0 has it: the code in __type.
func failure(status int, code, message string, old item) reply {
	fields := map[string]any{"__type": "com.amazonaws.dynamodb.v20120810#" + code, "message": message}
	if old != nil {
		fields["Item"] = old
	}
	body, _ := json.Marshal(fields) // can't fail
	return reply{status, body}
}

// exchange is a call and what a fault can do with it.
type exchange struct {
	w      http.ResponseWriter
	r      *http.Request
	closed <-chan struct{}
	serve  func() reply // does what was asked
}

func (x *exchange) answer(a reply) {
	x.header(a)
	x.w.WriteHeader(a.status)
	x.w.Write(a.body)
}

func (x *exchange) header(a reply) {
	x.w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	x.w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
	x.w.Header().Set("X-Amz-Crc32", strconv.FormatUint(uint64(crc32.ChecksumIEEE(a.body)), 10))
}

// order is that of the sort key, by its bytes.
func order(a, b item) int { return cmp.Compare(*a["sk"].S, *b["sk"].S) }
