// Package e2e_test runs Postern as its users do, whole: the compiled program on
// this machine, and the compiled Lambdas behind the API of template.yaml, with the wires
// of Secrets Manager and DynamoDB behind the real AWS SDK. The cases are package check's,
// and both sides must give the same answers to them.
package e2e_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"postern/shared/check"
	"postern/shared/jobs"
	"postern/shared/settings"
	"postern/tests/dynamofake"
	"postern/tests/gateway"
	"postern/tests/lambdahost"
	"postern/tests/secretsfake"
	"postern/tests/sources"
	"postern/tests/sqsfake"
)

// token is the root token of every server here: a canary, see check.
const token = "canary-7Qm4tZ0vX2kLw9RbYc3NdHs6FgUj1PeAoViT"

// binaries is the folder with everything compiled for this machine.
var binaries string

// parallel is how many tests run at once where -parallel doesn't say: most of them
// wait for a clock and not for a processor.
const parallel = "12"

func TestMain(m *testing.M) {
	flag.Set("test.parallel", parallel)
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if binaries, err = os.MkdirTemp("", "postern-e2e"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(binaries)
	build := exec.Command("go", "build", "-tags", "lambda.norpc", "-o", binaries+string(filepath.Separator),
		"postern/authorizer", "postern/functions/agents", "postern/functions/chat", "postern/functions/health", "postern/functions/jobs", "postern/functions/keys", "postern/functions/worker", "postern/cmd/postern")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s%v\n", out, err)
		return 1
	}
	return m.Run()
}

// TestTheCacheKnowsTheSources is what makes go test run the others again.
func TestTheCacheKnowsTheSources(t *testing.T) {
	if err := sources.Depend("../.."); err != nil {
		t.Fatal(err)
	}
}

// functions is where each Lambda of the template is compiled to.
var functions = map[string]string{
	"AuthorizerFunction": "authorizer",
	"AgentsFunction":     "agents",
	"ChatFunction":       "chat",
	"HealthFunction":     "health",
	"JobsFunction":       "jobs",
	"KeysFunction":       "keys",
	"WorkerFunction":     "worker",
}

// deployment is the Lambdas of one stack, behind its API.
type deployment struct {
	url    string
	hosts  map[string]*lambdahost.Host
	secret *secretsfake.Secret
	store  *secretsfake.Server
	table  *dynamofake.Server
	queues *sqsfake.Server
	queue  *sqsfake.Queue   // of jobs
	iam    *gateway.Account // who may call those: each function under its role in the template
}

// tableName is the name of every stack's table.
const tableName = "postern-table"

// aSecret stands for the ARN of a secret that deploy makes, with modelKey in it.
const aSecret = "a secret"

// stack is a deployment to be.
type stack struct {
	parameters, environment map[string]string // environment is added to every function's
	way                     gateway.Config    // another way in than the stage's URL
	atOnce                  int               // processes that each function may have; 0: one
	beside                  *deployment       // whose secret and table it shares; nil: it has its own
}

// deploy runs the stack with parameters, and environment added to every
// function's. It is reached by its stage URL.
func deploy(t *testing.T, parameters, environment map[string]string) *deployment {
	return stack{parameters: parameters, environment: environment}.deploy(t)
}

func (s stack) deploy(t *testing.T) *deployment {
	t.Helper()
	d := &deployment{hosts: map[string]*lambdahost.Host{}}
	if s.beside != nil {
		d.store, d.secret, d.table, d.queues, d.queue, d.iam = s.beside.store, s.beside.secret, s.beside.table, s.beside.queues, s.beside.queue, s.beside.iam
	} else {
		d.stores(t)
	}
	parameters := maps.Clone(s.parameters)
	if parameters["ModelApiKeySecretArn"] == aSecret {
		key := d.store.Create("model-key")
		key.Put(modelKey)
		parameters["ModelApiKeySecretArn"] = key.ARN()
	}
	api, err := gateway.Load("../../template.yaml", gateway.Deployment{
		Parameters: parameters,
		Values: map[string]string{
			"TokenSecret":   d.secret.ARN(),
			"Table":         tableName,
			"Table.Arn":     dynamofake.ARN(tableName),
			"JobsQueue":     d.queue.URL(),
			"JobsQueue.Arn": d.queue.ARN(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	invokers := map[string]gateway.Invoker{}
	for _, action := range []string{"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"} {
		if !api.Functions["WorkerFunction"].Role.Allows(action, d.queue.ARN(), "") { // Lambda would make no mapping
			t.Fatalf("the worker's role doesn't allow %s", action)
		}
	}
	for id, folder := range functions {
		principal := id + "-" + rand.Text()[:12] // as CloudFormation names it, so that stacks side by side differ
		d.iam.Assume(principal, api.Functions[id].Role)
		overrides := map[string]string{"AWS_ACCESS_KEY_ID": principal, "AWS_ENDPOINT_URL_SECRETS_MANAGER": d.store.URL, "AWS_ENDPOINT_URL_DYNAMODB": d.table.URL, "AWS_ENDPOINT_URL_SQS": d.queues.URL}
		maps.Copy(overrides, s.environment)
		host, err := lambdahost.Start(lambdahost.Config{
			Bootstrap:    filepath.Join(binaries, folder),
			Env:          api.Functions[id].Env(overrides),
			Dir:          "../..", // agents.yaml is in the package
			FunctionName: id,
			MemoryMB:     api.Functions[id].MemoryMB,
			Timeout:      api.Functions[id].Timeout,
			InitTimeout:  patience,
			Concurrency:  s.atOnce,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { host.Close() })
		d.hosts[id], invokers[id] = host, host
	}
	d.work(t)
	s.way.API, s.way.Invokers = api, invokers
	g, err := gateway.New(s.way)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(g)
	t.Cleanup(server.Close)
	d.url = server.URL + "/" + api.Stage
	if s.way.Domain != "" {
		d.url = strings.TrimSuffix(server.URL+"/"+s.way.BasePath, "/")
	}
	return d
}

// work has the stack's worker do the jobs in its queue until the test ends.
func (d *deployment) work(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		sqsfake.Mapping{Queue: d.queue, Function: d.hosts["WorkerFunction"], BatchSize: 1, MaximumConcurrency: 2}.Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
}

// stores starts what a stack keeps things in. It must not see a request in the
// whole test that AWS would not take from us, nor one that a function's role
// doesn't allow it.
func (d *deployment) stores(t *testing.T) {
	d.store, d.table, d.queues = secretsfake.Start(secretsfake.Config{}), dynamofake.Start(), sqsfake.Start()
	d.queue = d.queues.Create("postern-jobs", sqsfake.Attributes{VisibilityTimeout: 960 * time.Second})
	d.iam = &gateway.Account{}
	d.iam.Assume("AKIAEXAMPLE", gateway.Role{{Actions: []string{"*"}, Resources: []string{"*"}}}) // the test itself
	d.store.Authorize(d.iam.Allows)
	d.table.Authorize(d.iam.Allows)
	d.queues.Authorize(d.iam.Allows)
	d.table.Create(tableName)
	d.secret = d.store.Create("postern-root")
	d.secret.Put(token)
	t.Cleanup(func() {
		if v := slices.Concat(d.store.Violations(), d.table.Violations(), d.queues.Violations()); len(v) > 0 {
			t.Errorf("calls to Secrets Manager, DynamoDB and SQS: %v", v)
		}
		d.queues.Close()
		d.store.Close()
		d.table.Close()
	})
}

// end stops every process, so that the logs are whole.
func (d *deployment) end() {
	for _, host := range d.hosts {
		host.Close()
	}
}

// logs is what all functions wrote.
func (d *deployment) logs() string {
	var b strings.Builder
	for _, host := range d.hosts {
		b.WriteString(host.Logs())
	}
	return b.String()
}

// local is the program on this machine.
type local struct {
	url  string
	dir  string // where it runs, with its data folder .postern
	logs func() string

	process *exec.Cmd
	copied  chan struct{} // closed when all is in the log
}

// start runs `postern run` in an empty folder with the sample agents.
func start(t *testing.T, environment map[string]string) *local {
	t.Helper()
	return startIn(t, t.TempDir(), environment)
}

// startIn is start in a folder that may be another server's who has ended.
func startIn(t *testing.T, dir string, environment map[string]string) *local {
	t.Helper()
	logs, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := command(t, dir, "run", "--port", "0")
	cmd.Env = append(cmd.Env, "API_TOKEN="+token, "TRUSTED_PROXIES=127.0.0.1")
	for name, value := range environment {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l := &local{dir: dir, process: cmd, copied: make(chan struct{}), logs: func() string {
		text, _ := os.ReadFile(logs.Name())
		return string(text)
	}}
	lines := bufio.NewReader(stderr)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			cmd.Wait()
			t.Fatalf("postern run ended before it listened: %s", l.logs())
		}
		logs.WriteString(line)
		if _, url, found := strings.Cut(line, "listening on "); found {
			l.url = strings.TrimSpace(url)
			break
		}
	}
	go func() {
		io.Copy(logs, lines)
		logs.Close()
		close(l.copied)
	}()
	t.Cleanup(func() { l.end(os.Interrupt) })
	return l
}

// end sends the server a signal that ends it. Its log is whole then.
func (l *local) end(signal os.Signal) {
	l.process.Process.Signal(signal)
	<-l.copied
	l.process.Wait()
}

// command is the program in a folder, with the sample agents and nothing of the
// test's own environment.
func command(t *testing.T, dir string, arguments ...string) *exec.Cmd {
	agents, err := filepath.Abs("../../agents.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(binaries, "postern"), arguments...)
	cmd.Dir = dir
	cmd.Env = []string{"AGENTS_FILE=" + agents, "HOME=" + dir}
	return cmd
}

// elsewhere lets each request come from another address, as the trusted proxy
// that 127.0.0.1 is here: otherwise the flood guard would answer after 20
// refusals. What a case itself claims stays to the left, where nobody believes
// it.
type elsewhere struct {
	next http.RoundTripper
	n    *atomic.Int32
}

func (e elsewhere) RoundTrip(r *http.Request) (*http.Response, error) {
	n := e.n.Add(1)
	r = r.Clone(r.Context())
	r.Header.Add("X-Forwarded-For", fmt.Sprintf("198.51.%d.%d", 100+n/250, n%250))
	return e.next.RoundTrip(r)
}

// patience is how long a test waits for what should happen at once, on a machine
// that has much else to do.
const patience = 2 * time.Minute

// client has no pool that outlives the test, and waits for nobody forever.
func client(t *testing.T) *http.Client {
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// parameter finds the template's parameter for a setting, in the settings' own
// table.
func parameter(t *testing.T, setting string) string {
	for _, s := range settings.All() {
		if s.Name == setting {
			if _, name, found := strings.Cut(s.AWS, "parameter "); found {
				name, _, _ = strings.Cut(name, ",")
				return name
			}
		}
	}
	t.Fatalf("setting %s has no parameter", setting)
	return ""
}

// TestTheContractOnBothSides runs every case against the local server and
// against the deployed Lambdas. Each answer must be the contract's, and the two
// must be alike but for what the README lists (I24).
func TestTheContractOnBothSides(t *testing.T) {
	t.Parallel()
	for _, suite := range check.Suites() {
		t.Run(suite.Name, func(t *testing.T) {
			t.Parallel()
			parameters := map[string]string{}
			for name, value := range suite.Settings {
				parameters[parameter(t, name)] = value
			}
			cloud, here := deploy(t, parameters, nil), start(t, suite.Settings)
			if suite.Name == "limit" {
				withinAnHour(t)
			}
			c := client(t)
			onCloud := check.Target{URL: cloud.url, Token: token, Client: c}
			onHere := check.Target{URL: here.url, Token: token, Client: &http.Client{Timeout: c.Timeout, Transport: elsewhere{c.Transport, new(atomic.Int32)}}}
			if suite.Key != "" {
				onHere.Key, onCloud.Key = here.side(t).issue(t, token, suite.Key), cloud.side(t).issue(t, token, suite.Key)
			}
			if suite.Job != "" {
				onHere.Job, onCloud.Job = here.side(t).done(t, suite.Job), cloud.side(t).done(t, suite.Job)
			}
			for _, row := range suite.Cases {
				a, faults := onHere.Run(t.Context(), row)
				for _, f := range faults {
					t.Errorf("%s\n  on this machine: %s", row.Name, f)
				}
				b, faults := onCloud.Run(t.Context(), row)
				for _, f := range faults {
					t.Errorf("%s\n  on Lambda: %s", row.Name, f)
				}
				if a == nil || b == nil {
					continue
				}
				for _, f := range differences(a, b, onHere.Key.ID, onCloud.Key.ID) {
					t.Errorf("%s\n  the two sides differ: %s", row.Name, f)
				}
			}
			for side, logs := range map[string]string{"local": here.logs(), "Lambda": cloud.logs()} {
				if leak := leaked(logs); leak != "" {
					t.Errorf("P4: the log of the %s side has %s in it", side, leak)
				}
				for line := range strings.Lines(logs) {
					if side == "Lambda" && !json.Valid([]byte(line)) {
						t.Errorf("a line of a Lambda's log is no JSON: %s", line)
					}
				}
			}
			if suite.Key != "" {
				for _, s := range []side{here.side(t), cloud.side(t)} {
					s.as(t, token, get("/audit?after=2", check.Want{Status: 200, Body: `{"events":[],"next":null}`}))
					s.as(t, token, get("/keys", check.Want{Status: 200, JSON: map[string]any{"keys.1": check.Absent}}))
				}
			}
		})
	}
}

// TestEveryWayIn sends the cases of the defaults through the other shapes that
// API Gateway's events have.
func TestEveryWayIn(t *testing.T) {
	t.Parallel()
	for name, way := range map[string]gateway.Config{
		"a custom domain":                   {Domain: "agents.example"},
		"a custom domain with a base path":  {Domain: "agents.example", BasePath: "v1"},
		"HTTP/2, parameters passed decoded": {LowercaseHeaders: true, DecodePathParameters: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := check.Target{URL: stack{way: way}.deploy(t).url, Token: token, Client: client(t)}
			for _, row := range check.Suites()[0].Cases {
				_, faults := target.Run(t.Context(), row)
				for _, f := range faults {
					t.Errorf("%s: %s", row.Name, f)
				}
			}
		})
	}
}

// expect runs one case against a URL, and complains.
func expect(t *testing.T, url string, row check.Case) {
	t.Helper()
	_, faults := check.Target{URL: url, Token: token, Client: client(t)}.Run(context.Background(), row)
	for _, f := range faults {
		t.Errorf("%s: %s", row.Name, f)
	}
}

// done submits a chat, and returns its job's id when it has ended.
func (s side) done(t *testing.T, body string) string {
	t.Helper()
	id := decode[jobs.Job](t, s.as(t, token, laterCase(body, accepted))).ID
	s.ended(t, token, id)
	return id
}
