%% SPDX-License-Identifier: Apache-2.0

%% @private What of an HTTP/2 response waits for the client's window.
%%
%% Cowboy queues what the window has no room for, without a bound, and raises an alarm at the first
%% byte that it queues and another one when the queue is empty. In between nothing is acknowledged
%% to the worker, which so has no more than its own window under way; what is due then is kept here.
%%
%% Two more things belong to that time. The end of a response with trailers waits here: Cowboy
%% forgets a stream that has them in its queue. And a client that takes nothing at all within
%% `send_timeout' is given up. Progress is looked for on the whole connection, in what has gone
%% out: many streams may share a slow line, each of which gets little.
-module(hornbeam_backlog).

%% API
-export([new/0]).
-export([is_full/1]).
-export([sent/2]).
-export([filled/3]).
-export([hold/2]).
-export([drained/1]).
-export([expired/3]).
-export([stop/1]).

-export_type([backlog/0]).

-record(backlog, {
    %% Bytes that Cowboy was given while it had some in its queue; undefined: there are none.
    due :: non_neg_integer() | undefined,
    %% What ends the response when the queue is empty.
    held = [] :: cowboy_stream:commands(),
    timer :: reference() | undefined,
    %% What the timer's message is known by: one that fires while it is cancelled is stale.
    name :: reference() | undefined,
    %% Bytes that had gone out on the connection when the timer was started.
    out_bytes = 0 :: non_neg_integer()
}).

-opaque backlog() :: #backlog{}.

-type start_timer() :: fun((Name :: reference()) -> reference() | undefined).
%% Has `{send_timeout, Name}' come to the stream after `send_timeout'.

%% Less than that is what goes out for a client that only pings.
-define(MIN_PROGRESS_BYTES, 1024).

-spec new() -> backlog().
new() ->
    #backlog{}.

%% @doc Whether something is in Cowboy's queue.
-spec is_full(backlog()) -> boolean().
is_full(#backlog{due = Due}) ->
    Due =/= undefined.

%% @doc Cowboy has been given so many bytes: how many of them to acknowledge now.
-spec sent(non_neg_integer(), backlog()) -> {Ack :: non_neg_integer(), backlog()}.
sent(Bytes, Backlog = #backlog{due = undefined}) ->
    {Bytes, Backlog};
sent(Bytes, Backlog = #backlog{due = Due}) ->
    {0, Backlog#backlog{due = Due + Bytes}}.

%% @doc Cowboy begins to queue.
-spec filled(OutBytes :: non_neg_integer(), start_timer(), backlog()) -> backlog().
filled(OutBytes, StartTimer, Backlog) ->
    start(OutBytes, StartTimer, Backlog#backlog{due = 0}).

%% @doc Keep commands until the queue is empty.
-spec hold(cowboy_stream:commands(), backlog()) -> backlog().
hold(Commands, Backlog) ->
    Backlog#backlog{held = Commands}.

%% @doc The queue is empty: bytes to acknowledge, and the commands that were kept.
-spec drained(backlog()) -> {Ack :: non_neg_integer(), cowboy_stream:commands(), backlog()}.
drained(Backlog = #backlog{due = undefined}) ->
    {0, [], Backlog};
drained(Backlog = #backlog{due = Due, held = Held}) ->
    ok = stop(Backlog),
    {Due, Held, #backlog{}}.

%% @doc The timer of that name has fired.
-spec expired(Name :: reference(), {OutBytes :: non_neg_integer(), start_timer()}, backlog()) ->
    stalled | {going, backlog()}.
expired(Name, {OutBytes, StartTimer}, Backlog = #backlog{name = Name, out_bytes = Before}) ->
    case OutBytes - Before < ?MIN_PROGRESS_BYTES of
        true -> stalled;
        false -> {going, start(OutBytes, StartTimer, Backlog)}
    end;
expired(_, _, Backlog) ->
    {going, Backlog}.

%% @doc Stop the timer, if it runs.
-spec stop(backlog()) -> ok.
stop(#backlog{timer = undefined}) ->
    ok;
stop(#backlog{timer = Timer}) ->
    _ = erlang:cancel_timer(Timer, [{async, true}, {info, false}]),
    ok.

start(OutBytes, StartTimer, Backlog) ->
    Name = make_ref(),
    Backlog#backlog{timer = StartTimer(Name), name = Name, out_bytes = OutBytes}.
