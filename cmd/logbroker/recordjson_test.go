package main

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"
	"unicode/utf8"

	"logbroker/consumer"
	"logbroker/producer"
)

func TestRecordJSONHasItsFixedShape(t *testing.T) {
	at := time.UnixMilli(1700000000000)
	for _, c := range []struct {
		r      consumer.Record
		binary bool
		want   string
	}{
		{
			r:    consumer.Record{Topic: "t", Partition: 1, Offset: 2, Timestamp: at, Value: []byte("a\"\\\n\x01ü")},
			want: `{"topic":"t","partition":1,"offset":2,"timestamp":1700000000000,"key":null,"value":"a\"\\\n\u0001ü","headers":[]}`,
		},
		{
			r:    consumer.Record{Topic: "t", Timestamp: at, Key: []byte{}, Value: nil},
			want: `{"topic":"t","partition":0,"offset":0,"timestamp":1700000000000,"key":"","value":null,"headers":[]}`,
		},
		{
			r:    consumer.Record{Topic: "t", Timestamp: at, Key: []byte{0xff}, Value: []byte{0xfe, 0}},
			want: `{"topic":"t","partition":0,"offset":0,"timestamp":1700000000000,"key_base64":"/w==","value_base64":"/gA=","headers":[]}`,
		},
		{
			r: consumer.Record{Topic: "t", Timestamp: at, Value: []byte("v")}, binary: true,
			want: `{"topic":"t","partition":0,"offset":0,"timestamp":1700000000000,"key":null,"value":"dg==","value_base64":"dg==","headers":[]}`,
		},
		{
			r:    consumer.Record{Topic: "t", Timestamp: at, Value: []byte("v"), Headers: []consumer.Header{{Key: "h", Value: []byte("x")}, {Key: "i"}}},
			want: `{"topic":"t","partition":0,"offset":0,"timestamp":1700000000000,"key":null,"value":"v","headers":[{"key":"h","value":"x"},{"key":"i","value":null}]}`,
		},
	} {
		if got := string(appendRecordJSON(nil, &c.r, c.binary)); got != c.want+"\n" {
			t.Errorf("got  %swant %s", got, c.want)
		}
	}
}

func TestAcksHaveTheirFixedShape(t *testing.T) {
	r := producer.Receipt{Topic: "t", Partition: 3, Offset: 17, Timestamp: time.UnixMilli(5)}
	if got := string(appendAck(nil, &r, false)); got != "Produced to partition 3 at offset 17.\n" {
		t.Error(got)
	}
	if got := string(appendAck(nil, &r, true)); got != `{"topic":"t","partition":3,"offset":17,"timestamp":5}`+"\n" {
		t.Error(got)
	}
}

func FuzzRecordJSON(f *testing.F) {
	f.Add("topic", []byte("key"), []byte("va\"l\\u\x00e\u2028"), "h", false)
	f.Add("t\xff", []byte{0xff}, []byte(nil), "\xfe", true)
	f.Fuzz(func(t *testing.T, topic string, key, value []byte, header string, binary bool) {
		r := consumer.Record{Topic: topic, Key: key, Value: value, Headers: []consumer.Header{{Key: header, Value: value}}}
		line := appendRecordJSON(nil, &r, binary)
		var got struct {
			Topic       string
			Key, Value  *string
			KeyBase64   []byte `json:"key_base64"`
			ValueBase64 []byte `json:"value_base64"`
		}
		if err := json.Unmarshal(line, &got); err != nil || bytes.Count(line, []byte("\n")) != 1 {
			t.Fatalf("%q: %v", line, err)
		}
		check := func(name string, b []byte, text *string, encoded []byte) {
			switch {
			case b == nil:
				if text != nil || encoded != nil {
					t.Fatalf("null %s: %q", name, line)
				}
			case binary || !utf8.Valid(b):
				if !bytes.Equal(encoded, b) {
					t.Fatalf("%s %q: %q", name, b, line)
				}
			case text == nil || *text != string(b):
				t.Fatalf("%s %q: %q", name, b, line)
			}
		}
		check("key", key, got.Key, got.KeyBase64)
		check("value", value, got.Value, got.ValueBase64)
	})
}
