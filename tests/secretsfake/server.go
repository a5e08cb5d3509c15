// Package secretsfake is a fake of AWS Secrets Manager at the level of the wire,
// for tests that use the real AWS SDK.
//
// Start serves GetSecretValue (AWS JSON 1.1) on loopback. Create makes a secret
// without a value; its methods do what an operator, a schedule or a rotation
// function does to one: Put a new value, PutPending and Promote it. Labels move
// as in Secrets Manager: AWSCURRENT goes to the new version, AWSPREVIOUS to the
// one that was current, and what has no label is found by its version id only.
//
// Inject makes calls fail in the ways that services fail: an error, a reply that
// hangs or is garbage, a connection that breaks. Calls counts what arrived, and
// Violations lists calls that were not signed, sent no VersionStage or weren't
// allowed by whoever Authorize named, which every test of ours should find empty. Time is the one that Config.Now gives.
package secretsfake

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"sync"
	"time"
)

// The staging labels that Secrets Manager itself knows.
const (
	Current  = "AWSCURRENT"
	Previous = "AWSPREVIOUS"
	Pending  = "AWSPENDING"
)

const (
	account    = "123456789012"
	region     = "us-east-1"
	maxRequest = 1 << 20
)

// Config is the fake's surroundings. The zero value will do.
type Config struct {
	// Now is the clock of CreatedDate; nil: time.Now.
	Now func() time.Time
}

// Server is one region's Secrets Manager. It is safe for concurrent use.
type Server struct {
	// URL is what a client takes as its BaseEndpoint, or AWS_ENDPOINT_URL_SECRETS_MANAGER.
	URL string

	now    func() time.Time
	http   *httptest.Server
	closed chan struct{}

	mu         sync.Mutex
	secrets    []*Secret
	allows     func(principal, action, resource, leadingKey string) bool // nil: everything
	faults     []*Fault
	calls      map[string]int
	total      int
	arrived    chan struct{} // closed and replaced at each call
	violations []string
}

// Start serves until Close.
func Start(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{
		now:     cfg.Now,
		closed:  make(chan struct{}),
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

// Create makes a secret that has no version yet. Names must differ.
func (s *Server) Create(name string) *Secret {
	s.mu.Lock()
	defer s.mu.Unlock()
	secret := &Secret{server: s, name: name, arn: "arn:aws:secretsmanager:" + region + ":" + account + ":secret:" + name + "-AbCdEf"}
	s.secrets = append(s.secrets, secret)
	return secret
}

// Authorize has allows asked about each call before it is answered, as IAM is: by
// whom, which is the access key's id in its signature, what
// ("secretsmanager:GetSecretValue"), and of which secret (an ARN). The leading key,
// which is DynamoDB's, is "".
func (s *Server) Authorize(allows func(principal, action, resource, leadingKey string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allows = allows
}

// Calls returns how many calls asked for a label, failed ones too. An empty
// stage counts those that named none.
func (s *Server) Calls(stage string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[stage]
}

// Total returns how many calls arrived, whatever they asked for.
func (s *Server) Total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
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

// Violations describes the calls that broke a rule of ours; see the package.
func (s *Server) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.violations)
}

// request is GetSecretValue's.
type request struct {
	SecretID     string `json:"SecretId"`
	VersionID    string `json:"VersionId"`
	VersionStage string
}

// signature is what SigV4 leaves in a request for this service: first the access
// key's id. It is not verified: the fake doesn't know the caller's key.
var signature = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^/ ]+)/\d{8}/[a-z0-9-]+/secretsmanager/aws4_request, ?SignedHeaders=[a-z0-9;-]*\bhost\b[a-z0-9;-]*, ?Signature=[0-9a-f]{64}$`)

// ServeHTTP implements http.Handler. Start has connected it already.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in request
	decoded := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&in)
	signer := signature.FindStringSubmatch(r.Header.Get("Authorization"))
	signed := signer != nil && r.Header.Get("X-Amz-Date") != ""
	fault := s.arrive(in.VersionStage, signed)
	if fault != nil && fault.act(w, r, s.closed) {
		return
	}
	switch target := r.Header.Get("X-Amz-Target"); {
	case r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-amz-json-1.1":
		fail(w, http.StatusBadRequest, "SerializationException", "")
	case target != "secretsmanager.GetSecretValue":
		fail(w, http.StatusBadRequest, "UnknownOperationException", "this fake knows no "+target)
	case !signed:
		fail(w, http.StatusBadRequest, "MissingAuthenticationTokenException", "Missing Authentication Token")
	case decoded != nil:
		fail(w, http.StatusBadRequest, "SerializationException", decoded.Error())
	default:
		s.getSecretValue(w, signer[1], in)
	}
}

// arrive counts a call and returns the fault that is due for it, if any.
func (s *Server) arrive(stage string, signed bool) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[stage]++
	s.total++
	if !signed {
		s.violations = append(s.violations, fmt.Sprintf("call %d isn't signed with SigV4", s.total))
	}
	if stage == "" {
		s.violations = append(s.violations, fmt.Sprintf("call %d has no VersionStage", s.total))
	}
	close(s.arrived)
	s.arrived = make(chan struct{})
	for i, f := range s.faults {
		if f.stage != "" && f.stage != stage {
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

func (s *Server) getSecretValue(w http.ResponseWriter, principal string, in request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.secrets, func(secret *Secret) bool { return secret.arn == in.SecretID || secret.name == in.SecretID })
	if in.SecretID == "" || i < 0 {
		fail(w, http.StatusBadRequest, "ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
		return
	}
	secret := s.secrets[i]
	if s.allows != nil && !s.allows(principal, "secretsmanager:GetSecretValue", secret.arn, "") {
		why := fmt.Sprintf("User: arn:aws:sts::%s:assumed-role/%s is not authorized to perform: secretsmanager:GetSecretValue on resource: %s because no identity-based policy allows the secretsmanager:GetSecretValue action",
			account, principal, secret.arn)
		s.violations = append(s.violations, "AccessDeniedException: "+why)
		fail(w, http.StatusBadRequest, "AccessDeniedException", why)
		return
	}
	if secret.deleted {
		fail(w, http.StatusBadRequest, "InvalidRequestException",
			"You can't perform this operation on the secret because it was marked for deletion.")
		return
	}
	v := secret.find(in)
	if v == nil {
		fail(w, http.StatusBadRequest, "ResourceNotFoundException",
			"Secrets Manager can't find the specified secret value for staging label: "+in.VersionStage)
		return
	}
	out := map[string]any{
		"ARN":           secret.arn,
		"Name":          secret.name,
		"VersionId":     v.id,
		"VersionStages": v.labels,
		"CreatedDate":   float64(v.created.UnixMilli()) / 1000,
	}
	if v.binary != nil {
		out["SecretBinary"] = base64.StdEncoding.EncodeToString(v.binary)
	} else {
		out["SecretString"] = v.text
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	json.NewEncoder(w).Encode(out)
}

// fail answers as AWS JSON 1.1 does: the code in __type.
func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"__type": code, "Message": message})
}
