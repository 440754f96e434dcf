// Follow tierstream from another service with franz-go: the same program as tiers.py, line for line of what it prints.
//
//	go run . --bootstrap 127.0.0.1:9092 [--topic-prefix P] [--group G] [--exit-at-end]
//
// prints one line for each thing it learns; ../README.md says which, and what a copy must keep.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const connectTimeout = 10 * time.Second

// kinds of audit.events that say something about a tier. There are others, and there will be more.
var kinds = []string{
	"onboarding.claimed",
	"subscription.upgraded",
	"subscription.downgraded",
	"subscription.canceled",
	"admin.tier_changed",
}

// envelope is a CloudEvents envelope in JSON, as far as this program looks.
type envelope struct {
	SpecVersion string         `json:"specversion"`
	ID          string         `json:"id"`
	Type        string         `json:"type"`
	Subject     string         `json:"subject"`
	Data        map[string]any `json:"data"`
}

// readEnvelope returns the envelope that value holds, or nil when it holds none.
func readEnvelope(value []byte) *envelope {
	var found envelope
	if json.Unmarshal(value, &found) != nil || found.SpecVersion != "1.0" || found.Data == nil {
		return nil
	}
	return &found
}

var printing sync.Mutex

// report prints one line. Two goroutines print.
func report(fields ...any) {
	texts := make([]string, len(fields))
	for i, field := range fields {
		if text, ok := field.(string); ok && text != "" {
			texts[i] = text
		} else {
			texts[i] = "-"
		}
	}
	printing.Lock()
	defer printing.Unlock()
	fmt.Println(strings.Join(texts, "\t"))
}

// tiers is every team's tier, as far as tier.current has been read.
type tiers map[string]map[string]any

// apply takes one record in and says whether it changed its team.
func (known tiers) apply(record *kgo.Record) bool {
	if record.Key == nil {
		return false
	}
	team := string(record.Key)
	before, isKnown := known[team]
	if record.Value == nil { // a tombstone
		delete(known, team)
		return isKnown
	}
	read := readEnvelope(record.Value)
	if read == nil || read.Type != "tier.current" {
		return false
	}
	known[team] = read.Data
	return !isKnown || !reflect.DeepEqual(before, read.Data)
}

func (known tiers) report(name, team string) {
	if data, isKnown := known[team]; isKnown {
		report(name, team, data["tier"], data["since"])
	} else {
		report("gone", team)
	}
}

type place struct {
	bootstrap, prefix, group string
	exitAtEnd                bool
}

// client returns a client that sees committed records alone. It keeps the markers of transactions as records, which tell how far a
// partition has been read; they are no events.
func (at place) client(options ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(options,
		kgo.SeedBrokers(strings.Split(at.bootstrap, ",")...),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.KeepControlRecords(),
		kgo.RetryTimeout(connectTimeout),
	)...)
}

// bounds returns where the partitions of a topic start, and where they end now for a reader of committed records.
func (at place) bounds(ctx context.Context, client *kgo.Client, topic string) (starts, ends map[int32]int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	admin := kadm.NewClient(client)
	for _, list := range []struct {
		offsets func(context.Context, ...string) (kadm.ListedOffsets, error)
		into    *map[int32]int64
	}{{admin.ListStartOffsets, &starts}, {admin.ListCommittedOffsets, &ends}} {
		listed, err := list.offsets(ctx, topic)
		if err == nil {
			err = listed.Error()
		}
		if err != nil {
			return nil, nil, at.explained(err, topic)
		}
		found := map[int32]int64{}
		listed.Each(func(offset kadm.ListedOffset) { found[offset.Partition] = offset.Offset })
		*list.into = found
	}
	return starts, ends, nil
}

func (at place) explained(err error, topic string) error {
	var network *net.OpError
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return fmt.Errorf("Kafka has no topic %s; check --topic-prefix.", topic)
	case errors.As(err, &network), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("Kafka can not be reached at %s; check --bootstrap.", at.bootstrap)
	}
	return err
}

// has says whether everything before the ends has been read.
func reached(next, ends map[int32]int64) bool {
	for partition, end := range ends {
		if next[partition] < end {
			return false
		}
	}
	return true
}

// followTiers reads tier.current from its start: prints the picture once it is whole, and from then on each change.
func followTiers(ctx context.Context, at place) error {
	topic := at.prefix + "tier.current"
	client, err := at.client(kgo.ConsumeTopics(topic)) // without a group: it gets every partition
	if err != nil {
		return err
	}
	defer client.Close()
	next, ends, err := at.bounds(ctx, client, topic)
	if err != nil {
		return err
	}
	known, isWhole := tiers{}, false
	for {
		if !isWhole && reached(next, ends) {
			isWhole = true
			teams := make([]string, 0, len(known))
			for team := range known {
				teams = append(teams, team)
			}
			slices.Sort(teams)
			for _, team := range teams {
				known.report("tier", team)
			}
			if at.exitAtEnd {
				return nil
			}
		}
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := fetches.Err(); err != nil {
			return at.explained(err, topic)
		}
		fetches.EachRecord(func(record *kgo.Record) {
			next[record.Partition] = record.Offset + 1
			if !record.Attrs.IsControl() && known.apply(record) && isWhole {
				known.report("now", string(record.Key))
			}
		})
	}
}

// assigned is what the group has dealt this member, and how far each partition has been read.
type assigned struct {
	sync.Mutex
	isDealt bool
	next    map[int32]int64
}

// followEvents reads audit.events with a group: prints each event about a tier, and commits what was printed.
func followEvents(ctx context.Context, at place) error {
	topic := at.prefix + "audit.events"
	own := assigned{next: map[int32]int64{}}
	drop := func(_ context.Context, _ *kgo.Client, gone map[string][]int32) {
		own.Lock()
		defer own.Unlock()
		for _, partition := range gone[topic] {
			delete(own.next, partition)
		}
	}
	client, err := at.client(
		kgo.ConsumerGroup(at.group),
		kgo.ConsumeTopics(topic),
		kgo.DisableAutoCommit(),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, dealt map[string][]int32) {
			own.Lock()
			defer own.Unlock()
			own.isDealt = true
			for _, partition := range dealt[topic] {
				own.next[partition] = 0
			}
		}),
		kgo.OnPartitionsRevoked(drop),
		kgo.OnPartitionsLost(drop),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	starts, ends, err := at.bounds(ctx, client, topic)
	if err != nil {
		return err
	}
	for {
		if at.exitAtEnd && own.reached(client.CommittedOffsets()[topic], starts, ends) {
			return nil
		}
		polling, cancel := context.WithTimeout(ctx, 250*time.Millisecond)
		fetches := client.PollFetches(polling)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if err := fetches.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return at.explained(err, topic)
		}
		fetches.EachRecord(func(record *kgo.Record) {
			if !record.Attrs.IsControl() && record.Value != nil {
				reportEvent(record.Value)
			}
		})
		if fetches.NumRecords() == 0 {
			continue
		}
		// The group may have dealt its partitions anew meanwhile: then their new owner reads these events again.
		if err := client.CommitUncommittedOffsets(ctx); err != nil && ctx.Err() == nil &&
			!errors.Is(err, kerr.RebalanceInProgress) && !errors.Is(err, kerr.IllegalGeneration) && !errors.Is(err, kerr.UnknownMemberID) {
			return at.explained(err, topic)
		}
	}
}

// reached says whether everything before the ends has been read and committed, of what the group has dealt this member.
func (own *assigned) reached(committed map[int32]kgo.EpochOffset, starts, ends map[int32]int64) bool {
	own.Lock()
	defer own.Unlock()
	for partition := range own.next {
		next := starts[partition]
		if offset, isKnown := committed[partition]; isKnown {
			next = max(next, offset.Offset)
		}
		if next < ends[partition] {
			return false
		}
	}
	return own.isDealt
}

// reportEvent prints one event, unless it is of a kind that this program does not know.
func reportEvent(value []byte) {
	read := readEnvelope(value)
	if read == nil || !slices.Contains(kinds, read.Type) {
		return
	}
	metadata, _ := read.Data["metadata"].(map[string]any)
	report("event", read.Subject, read.Type, metadata["from"], metadata["to"], metadata["reason"], read.ID)
}

func main() {
	var at place
	flag.StringVar(&at.bootstrap, "bootstrap", "", "Kafka's address; several are comma-separated")
	flag.StringVar(&at.prefix, "topic-prefix", "", "what stands before every topic's name")
	flag.StringVar(&at.group, "group", "example.tiers", "consumer group for audit.events; take one of your own")
	flag.BoolVar(&at.exitAtEnd, "exit-at-end", false, "stop where the topics end now, instead of following them")
	flag.Parse()
	if at.bootstrap == "" {
		fmt.Fprintln(os.Stderr, "tiers: --bootstrap is missing.")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	failures := make(chan error, 2)
	for _, follow := range []func(context.Context, place) error{followTiers, followEvents} {
		go func() { failures <- follow(ctx, at) }()
	}
	for range 2 {
		if err := <-failures; err != nil {
			fmt.Fprintf(os.Stderr, "tiers: %v\n", err)
			os.Exit(1)
		}
	}
}
