%% SPDX-License-Identifier: Apache-2.0

%% @private HTTP/2: Cowboy's options for it, each with its reason, and what it does wrong put right.
%%
%% Cowboy's state machine is its own affair; these are the places where a stream handler has to know
%% of it. docs/reference/http2.md has the limits for users.
-module(hornbeam_http2).

%% API
-export([options/1]).
-export([max_streams/0]).
-export([stream_window/1]).
-export([is_upgrade/1]).
-export([is_bomb/2]).
-export([fits/1]).

%% Streams of a connection at a time (RFC 9113 5.1.2 recommends no less than 100).
-define(MAX_STREAMS, 100).
%% Frames of any kind that may come on a connection in a period: 20,000 a second. Cowboy's own
%% default ends an upload of more than 16 MB a second, or a benchmark.
-define(MAX_FRAME_RATE, {200000, 10000}).
%% Streams that we may reset in a period (CVE-2019-9514). More than there can be at a time, so that
%% responses that break off together do not end the connection.
-define(MAX_RESET_RATE, {200, 10000}).
%% Streams that the client may cancel in a period (CVE-2023-44487).
-define(MAX_CANCEL_RATE, {500, 10000}).
%% All clients can do with that; it is what they have before they know better.
-define(DECODE_TABLE_BYTES, 4096).
-define(FRAME_BYTES, 16384).
%% The window of a stream that RFC 9113 6.9.2 gives it.
-define(STREAM_WINDOW_BYTES, 65535).
%% The connection's window is no limit: the streams' are. It is widened when it is short of what
%% they may send all together.
-define(CONNECTION_WINDOW_BYTES, 1073741824).
%% An alarm at the first byte that is queued for a stream; see hornbeam_backlog. No other value: where
%% there is none, hornbeam_response_body takes the queue for empty, and ends a response that did not end.
-define(STREAM_BUFFER_BYTES, 1).
%% Never: Cowboy raises this alarm in place of that of the stream, and so takes it back.
-define(CONNECTION_BUFFER_BYTES, 16#7fffffffffff).
%% From the announcement that the connection will end to the last stream that it takes: a round trip.
-define(GOAWAY_MS, 300).
%% Beyond that, and four times what is allowed, headers are an attack on memory: a reference of one
%% byte to the table stands for up to 4 KiB.
-define(BOMB_BYTES, 262144).
%% Room for headers that are ours, in their frame.
-define(FRAME_MARGIN_BYTES, 256).
%% What a header takes beside its name and value.
-define(HEADER_BYTES, 3).

%% @doc Options of Cowboy's, on top of those that both protocols read.
-spec options(hornbeam_config:config()) -> map().
options(Config) ->
    #{max_request_line_size := LineSize, max_header_size := HeaderSize,
      header_timeout := HeaderTimeout, http_version := Versions} = Config,
    #{
        %% Read by Cowboy from 2.13 on; for 2.12 see hornbeam_preface and hornbeam_upgrade.
        protocols => [protocol(Version) || Version <- Versions],
        max_concurrent_streams => ?MAX_STREAMS,
        max_received_frame_rate => ?MAX_FRAME_RATE,
        max_reset_stream_rate => ?MAX_RESET_RATE,
        max_cancel_stream_rate => ?MAX_CANCEL_RATE,
        max_decode_table_size => ?DECODE_TABLE_BYTES,
        max_frame_size_received => ?FRAME_BYTES,
        %% What is too large by less is answered with 431.
        max_fragmented_header_block_size => max(?FRAME_BYTES, LineSize + HeaderSize),
        preface_timeout => HeaderTimeout,
        settings_timeout => HeaderTimeout,
        initial_stream_window_size => ?STREAM_WINDOW_BYTES,
        %% hornbeam_flow says to the byte what may come.
        stream_window_margin_size => 0,
        initial_connection_window_size => ?CONNECTION_WINDOW_BYTES,
        connection_window_margin_size => ?CONNECTION_WINDOW_BYTES,
        %% A client with a window below Cowboy's 16 KiB would get nothing.
        stream_window_data_threshold => 1,
        max_stream_buffer_size => ?STREAM_BUFFER_BYTES,
        max_connection_buffer_size => ?CONNECTION_BUFFER_BYTES,
        goaway_initial_timeout => ?GOAWAY_MS,
        %% Running requests have until the end of the drain, which then cuts them.
        goaway_complete_timeout => infinity
    }.

protocol('HTTP/1.1') -> http;
protocol('HTTP/2') -> http2.

-spec max_streams() -> pos_integer().
max_streams() ->
    ?MAX_STREAMS.

%% @doc What of a request body may come unread. For the default it is what a stream has by itself,
%% which spares a frame for each upload; less can't be had before the client knows of it.
-spec stream_window(Window :: pos_integer()) -> pos_integer().
stream_window(Window) when Window =< ?STREAM_WINDOW_BYTES + 1 -> ?STREAM_WINDOW_BYTES;
stream_window(Window) -> Window.

%% @doc Whether Cowboy takes this HTTP/1.1 request for one to change to HTTP/2.
-spec is_upgrade(hornbeam_request:incoming()) -> boolean().
is_upgrade(#{version := 'HTTP/1.1', headers := Headers = #{<<"http2-settings">> := _}}) ->
    case Headers of
        #{<<"connection">> := Connection, <<"upgrade">> := Upgrade} ->
            Named = cow_http_hd:parse_connection(Connection),
            lists:member(<<"upgrade">>, Named) andalso lists:member(<<"http2-settings">>, Named)
                andalso lists:member(<<"h2c">>, cow_http_hd:parse_upgrade(Upgrade));
        #{} ->
            false
    end;
is_upgrade(_) ->
    false.

%% @doc Whether headers are so much beyond the limit that nobody means them.
-spec is_bomb(cowboy:http_headers(), MaxHeaderSize :: pos_integer()) -> boolean().
is_bomb(Headers, MaxHeaderSize) ->
    bytes(maps:to_list(Headers)) > max(?BOMB_BYTES, 4 * MaxHeaderSize).

%% @doc Whether the headers of a worker's message fit into one frame: Cowboy puts all of them into
%% one, also where that is larger than any client takes.
-spec fits(tuple()) -> boolean().
fits({response, _, _, Headers, _}) -> fit(Headers);
fits({start, _, _, Headers, _}) -> fit(Headers);
fits({accept, _, _, Headers}) -> fit(Headers);
fits({inform, _, _, Headers}) -> fit(Headers);
fits({trailers, _, Headers}) -> fit(Headers);
fits(_) -> true.

fit(Headers) ->
    %% A byte takes up to 30 bits in Huffman's code.
    case 4 * bytes(Headers) =< ?FRAME_BYTES - ?FRAME_MARGIN_BYTES of
        true -> true;
        false -> encoded_bytes(Headers) =< ?FRAME_BYTES - ?FRAME_MARGIN_BYTES
    end.

encoded_bytes(Headers) ->
    {Encoded, _} = cow_hpack:encode(Headers),
    iolist_size(Encoded).

bytes(Headers) ->
    lists:foldl(fun({Name, Value}, Bytes) ->
        Bytes + byte_size(Name) + byte_size(Value) + ?HEADER_BYTES
    end, 0, Headers).
