%% SPDX-License-Identifier: Apache-2.0

%% @private The messages between the node and a Python worker, and their bytes.
%%
%% Pure: no process, no port. `docs/protocol.md' explains each message; the Python twin of this
%% module is `python/hornbeam/_protocol.py'. A packet is a batch of messages; a message is encoded
%% apart, so that connection processes do that work side by side and the writer only joins bytes.
-module(hornbeam_protocol).

%% API
-export([encode/1]).
-export([batch/1]).
-export([decode/1]).
-export([join/1]).
-export([atoms/0]).

-export_type([message/0, to_worker/0, from_worker/0, encoded/0, scope/0, tls/0,
              headers/0, request_id/0, call_id/0, invoke_id/0, stream_id/0, close_code/0, decode_error/0]).

-type request_id() :: pos_integer().
%% Chosen by the node, never used twice in a worker's life.

-type call_id() :: pos_integer().
%% Chosen by the worker.

-type invoke_id() :: pos_integer().
%% Of a hook that the worker runs; chosen by the node.

-type stream_id() :: pos_integer().
%% Of a stream that the worker takes; chosen by the node.

-type headers() :: [{binary(), binary()}].
%% Names in lower case.

-type close_code() :: 1000..4999.
%% Of a WebSocket (RFC 6455 7.4).

-type address() :: {binary(), inet:port_number() | undefined} | undefined.

-type scope() :: {Method :: binary(), Scheme :: binary(), HttpVersion :: binary(),
                  RawPath :: binary(), QueryString :: binary(), headers(),
                  Client :: address(), Server :: address(), scope_extra()}.

-type scope_extra() :: #{root_path => binary(), tls => tls()}.
%% What few requests have; `root_path' in place of the setting of that name.

-type tls() :: {Version :: 0..65535, CipherSuite :: 0..65535, ServerCertificate :: binary(),
                ClientCertificates :: [binary()], ClientName :: binary() | undefined}.
%% Numbers as IANA has them, certificates as PEM, the name as RFC 4514 writes it.

-type to_worker() ::
    {configure, map()}
  | {request, request_id(), scope(), Body :: binary(), More :: boolean()}
  | {websocket, request_id(), scope(), Subprotocols :: [binary()]}
  | {message, request_id(), text | binary, Data :: binary()}
  | {ending | closed, request_id(), close_code(), Reason :: binary()}
  | {body, request_id(), Data :: binary(), More :: boolean()}
  | {ack, request_id(), Bytes :: non_neg_integer()}
  | {opened | kept, request_id()}
  | {refused, request_id(), Reason :: atom(), SizeBytes :: non_neg_integer()}
  | {disconnect, request_id()}
  | {cancel, request_id()}
  | {reply, call_id(), ok, term()}
  | {reply, call_id(), error, {atom(), map()}}
  | {publish, Topic :: binary(), Blob :: binary()}
  | {dropped, Count :: pos_integer()}
  | {invoke, invoke_id(), Path :: binary(), Method :: binary() | undefined,
     Args :: binary(), Kwargs :: binary(), call | stream}
  | {invoke_cancel, invoke_id()}
  | {invoke_credit, invoke_id(), Count :: pos_integer()}
  | {item, stream_id(), Blob :: binary()}
  | {stream_end, stream_id()}
  | {stream_error, stream_id(), {atom(), map()}}
  | {ping, integer()}
  | {revoke}
  | {inspect}
  | {shutdown, TimeoutMs :: non_neg_integer() | infinity}.

-type from_worker() ::
    {ready | stopped, Facts :: map()}
  | {failed, Name :: atom(), Facts :: map()}
  | {pong, integer()}
  | {blocked, Report :: map()}
  | {returned, request_id(), Body :: binary()}
  | {log, logger:level(), Report :: map()}
  | {response | start, request_id(), Status :: 100..999, headers(), Body :: binary()}
  | {inform, request_id(), Status :: 100..199, headers()}
  | {data | last, request_id(), Data :: binary()}
  | {file, request_id(), Head :: {Status :: 100..999, headers()} | undefined,
     Path :: binary(), Offset :: non_neg_integer(), Bytes :: non_neg_integer() | undefined}
  | {trailers, request_id(), headers()}
  | {abort | done | borrow, request_id()}
  | {written, request_id(), Bytes :: non_neg_integer()}
  | {accept, request_id(), Subprotocol :: binary() | undefined, headers()}
  | {message, request_id(), text | binary, Data :: binary()}
  | {close, request_id(), close_code(), Reason :: binary()}
  | {credit | waiting, request_id(), Bytes :: non_neg_integer()}
  | {call, call_id(), Function :: atom(), Args :: tuple()}
  | {cast, Function :: atom(), Args :: tuple()}
  | {result, invoke_id(), ok, Blob :: binary()}
  | {result, invoke_id(), error, Facts :: map()}
  | {produce, invoke_id(), Blob :: binary()}.

-type message() :: to_worker() | from_worker().

-type encoded() :: binary() | [binary(), ...].
%% One message without the version byte. In pieces where it has a large binary, which is not copied.

-type decode_error() :: {malformed, FirstBytes :: binary()}.

-define(VERSION, 131).
-define(LIST_EXT, 108).
-define(NIL_EXT, 106).
-define(COMPRESSED, 80).
-define(SMALL_TUPLE_EXT, 104).
-define(SMALL_ATOM_UTF8_EXT, 119).
-define(INTEGER_EXT, 98).
-define(BINARY_EXT, 109).
%% How much of a packet that makes no sense is shown in the log.
-define(SHOWN_BYTES, 64).
%% Bodies up to that size are cheaper to copy than to send in pieces.
-define(COPIED_BYTES, 4096).
%% Of a WebSocket's close frame: a control frame has 125 bytes, of which the code takes two.
-define(MAX_CLOSE_REASON_BYTES, 123).

%% @doc The bytes of one message, to be joined by {@link batch/1}.
-spec encode(message()) -> encoded().
encode({body, _, Data, _} = Message) when byte_size(Data) > ?COPIED_BYTES ->
    [<<?VERSION, Encoded/binary>> | Rest] = term_to_iovec(Message),
    [Encoded | Rest];
encode({request, _, _, Data, _} = Message) when byte_size(Data) > ?COPIED_BYTES ->
    [<<?VERSION, Encoded/binary>> | Rest] = term_to_iovec(Message),
    [Encoded | Rest];
encode(Message) ->
    <<?VERSION, Encoded/binary>> = term_to_binary(Message),
    Encoded.

%% @doc One packet of encoded messages, in their order. The port adds the length.
-spec batch([encoded(), ...]) -> iolist().
batch(Messages) ->
    [<<?VERSION, ?LIST_EXT, (length(Messages)):32>>, Messages, ?NIL_EXT].

%% @doc The messages of a packet from a worker.
%%
%% Creates no atom (`safe'), inflates nothing (the worker never compresses, so a compressed term
%% is an attack or a fault), and takes only the forms that {@link from_worker()} lists. A packet with
%% one part of a body, as those of large bodies are, has its bytes not copied.
-spec decode(binary()) -> {ok, [from_worker()]} | {error, decode_error()}.
decode(<<?VERSION, ?LIST_EXT, 1:32, ?SMALL_TUPLE_EXT, 3, ?SMALL_ATOM_UTF8_EXT, 4, "data",
         ?INTEGER_EXT, Id:32/signed, ?BINARY_EXT, Size:32, Data:Size/binary, ?NIL_EXT>>) ->
    {ok, [{data, Id, Data}]};
decode(<<?VERSION, ?COMPRESSED, _/binary>> = Packet) ->
    malformed(Packet);
decode(Packet) ->
    try binary_to_term(Packet, [safe, used]) of
        {Messages, Used} when Used =:= byte_size(Packet) ->
            case is_known(Messages) of
                true -> {ok, Messages};
                false -> malformed(Packet)
            end;
        {_, _} ->
            malformed(Packet)
    catch
        error:badarg -> malformed(Packet)
    end.

%% @doc The same messages, but parts of one body that follow on each other are one part.
%%
%% Where an application sends a body in crumbs, a packet has hundreds of them, and each message to a
%% connection ends in a system call of its own. ASGI and WSGI promise nothing about where parts end.
-spec join([from_worker()]) -> [from_worker()].
join([{data, Id, First}, {Kind, Id, Second} | Rest]) when Kind =:= data; Kind =:= last ->
    join_parts(Kind, Id, Rest, [Second, First]);
join([Message | Rest]) ->
    [Message | join(Rest)];
join([]) ->
    [].

%% The parts are last first.
join_parts(data, Id, [{Kind, Id, Data} | Rest], Parts) when Kind =:= data; Kind =:= last ->
    join_parts(Kind, Id, Rest, [Data | Parts]);
join_parts(Kind, Id, Rest, Parts) ->
    [{Kind, Id, iolist_to_binary(lists:reverse(Parts))} | join(Rest)].

%% @doc Every atom that a worker may send beside the heads of messages.
%%
%% Decoding is `safe', and a node in interactive mode loads modules late: without this list the
%% first report of a failed start would be taken for garbage.
-spec atoms() -> [atom()].
atoms() ->
    [app, message, traceback, type, loop, chdir, lifespan, timeout_ms, worker_class, request_id,
     status, window, path, key,
     location, requests,
     os_pid, python, codec, c, uvloop, asyncio, trio, asgi, wsgi, lending, started, unsupported, off,
     complete, failed, undefined, true, false,
     app_not_found, app_import_failed, app_not_callable, loop_unavailable, chdir_failed,
     lifespan_unsupported, lifespan_failed, startup_timeout, worker_class_unsupported,
     emergency, alert, critical, error, warning, notice, info, debug,
     state_get, state_set, state_incr, state_delete, state_get_multi, state_set_multi, state_keys,
     state_add, state_cas, state_pop,
     publish, subscribe, unsubscribe, call, cast, rpc_call, rpc_cast, nodes, node, ping, connect,
     register_hook, unregister_hook, execute, stream, stream_credit, stream_cancel,
     result, produce, ok, infinity, class, reason, stack,
     text, binary, attach, detach, close, drop_oldest, not_open].

malformed(Packet) ->
    {error, {malformed, binary:part(Packet, 0, min(byte_size(Packet), ?SHOWN_BYTES))}}.

is_known([Message | Rest]) -> is_message(Message) andalso is_known(Rest);
is_known([]) -> true;
is_known(_) -> false.

is_message({response, Id, Status, Headers, Body}) -> is_head(Id, Status, Headers, Body);
is_message({start, Id, Status, Headers, Body}) -> is_head(Id, Status, Headers, Body);
is_message({done, Id}) -> is_integer(Id);
is_message({data, Id, Data}) -> is_integer(Id) andalso is_binary(Data);
is_message({last, Id, Data}) -> is_integer(Id) andalso is_binary(Data);
is_message({file, Id, undefined, Path, Offset, Bytes}) ->
    is_integer(Id) andalso is_binary(Path) andalso is_size(Offset)
        andalso (Bytes =:= undefined orelse is_size(Bytes));
is_message({file, Id, {Status, Headers}, Path, Offset, Bytes}) ->
    is_head(Id, Status, Headers, Path) andalso is_message({file, Id, undefined, Path, Offset, Bytes});
is_message({credit, Id, Bytes}) -> is_integer(Id) andalso is_integer(Bytes) andalso Bytes >= 0;
is_message({waiting, Id, Bytes}) -> is_integer(Id) andalso is_integer(Bytes) andalso Bytes >= 0;
is_message({abort, Id}) -> is_integer(Id);
is_message({borrow, Id}) -> is_integer(Id);
is_message({written, Id, Bytes}) -> is_integer(Id) andalso is_size(Bytes);
is_message({message, Id, Kind, Data}) ->
    is_integer(Id) andalso (Kind =:= text orelse Kind =:= binary) andalso is_binary(Data);
is_message({accept, Id, Subprotocol, Headers}) ->
    is_integer(Id) andalso (Subprotocol =:= undefined orelse is_binary(Subprotocol))
        andalso is_headers(Headers);
is_message({close, Id, Code, Reason}) ->
    is_integer(Id) andalso is_integer(Code) andalso Code >= 1000 andalso Code =< 4999
        andalso is_binary(Reason) andalso byte_size(Reason) =< ?MAX_CLOSE_REASON_BYTES;
is_message({inform, Id, Status, Headers}) -> is_head(Id, Status, Headers, <<>>);
is_message({trailers, Id, Headers}) -> is_integer(Id) andalso is_headers(Headers);
is_message({call, Id, Function, Args}) ->
    is_integer(Id) andalso is_atom(Function) andalso is_tuple(Args);
is_message({cast, Function, Args}) -> is_atom(Function) andalso is_tuple(Args);
is_message({result, Id, ok, Blob}) -> is_integer(Id) andalso is_binary(Blob);
is_message({result, Id, error, Facts}) -> is_integer(Id) andalso is_error(Facts);
is_message({produce, Id, Blob}) -> is_integer(Id) andalso is_binary(Blob);
is_message({pong, N}) -> is_integer(N);
is_message({log, Level, Report}) -> is_atom(Level) andalso is_map(Report);
is_message({returned, Id, Body}) -> is_integer(Id) andalso is_binary(Body);
is_message({blocked, Report}) -> is_report(Report);
is_message({ready, Facts}) -> is_map(Facts);
is_message({stopped, Facts}) -> is_map(Facts);
is_message({failed, Name, Facts}) -> is_atom(Name) andalso is_map(Facts);
is_message(_) -> false.

is_size(Bytes) -> is_integer(Bytes) andalso Bytes >= 0.

is_report(#{location := Location, stack := Stack, requests := Requests}) ->
    is_binary(Location) andalso is_binary(Stack) andalso is_list(Requests)
        andalso lists:all(fun is_named_request/1, Requests);
is_report(_) ->
    false.

is_named_request({Id, Where}) -> is_integer(Id) andalso is_binary(Where);
is_named_request(_) -> false.

is_error(#{class := Class, reason := Reason, stack := Stack}) ->
    is_binary(Class) andalso is_binary(Reason) andalso is_binary(Stack);
is_error(_) ->
    false.

is_head(Id, Status, Headers, Body) ->
    is_integer(Id) andalso is_integer(Status) andalso Status >= 100 andalso Status =< 999
        andalso is_binary(Body) andalso is_headers(Headers).

is_headers([{Name, Value} | Rest]) ->
    is_binary(Name) andalso is_binary(Value) andalso is_headers(Rest);
is_headers([]) -> true;
is_headers(_) -> false.
