%% SPDX-License-Identifier: Apache-2.0

%% @private What a worker's process keeps about hooks: the invocations that its Python side runs,
%% and the streams that it takes.
%%
%% Runs in the worker's process and gives back the messages that are to go to Python. An invocation
%% ends with its `result', or when its caller has gone; whatever comes of it later is dropped. A
%% stream ends with its relay ({@link hornbeam_hook_stream}).
-module(hornbeam_worker_hooks).

%% API
-export([new/0]).
-export([invoke/4]).
-export([credit/3]).
-export([produce/3]).
-export([result/3]).
-export([open_stream/4]).
-export([stream_count/1]).
-export([give_credit/3]).
-export([cancel/2]).
-export([process_down/2]).

-export_type([hooks/0]).

-type invoke_id() :: hornbeam_protocol:invoke_id().

-type stream_id() :: hornbeam_protocol:stream_id().

-record(invoke, {
    caller :: pid(),
    ref :: reference(),
    monitor :: reference(),
    %% Items that the caller will take.
    credit = 0 :: non_neg_integer()
}).

-record(hooks, {
    next_id = 1 :: pos_integer(),
    invokes = #{} :: #{invoke_id() => #invoke{}},
    %% By the tag of the caller's messages.
    ids = #{} :: #{reference() => invoke_id()},
    relays = #{} :: #{stream_id() => pid()},
    %% Callers and relays.
    monitors = #{} :: #{reference() => {invoke, invoke_id()} | {relay, stream_id()}}
}).

-opaque hooks() :: #hooks{}.

-type messages() :: [hornbeam_protocol:to_worker()].

-spec new() -> hooks().
new() ->
    #hooks{}.

%%% Invocations

%% @doc Somebody invokes a hook of this worker.
-spec invoke(Caller :: pid(), reference(), hornbeam_hook_call:invocation(), hooks()) ->
    {messages(), hooks()}.
invoke(Caller, Ref, {Path, Method, Args, Kwargs, Kind}, Hooks) ->
    #hooks{next_id = Id, invokes = Invokes, ids = Ids, monitors = Monitors} = Hooks,
    %% Those of this node have counted themselves.
    _ = node(Caller) =/= node() andalso hornbeam_hook_registry:count_up(self()),
    hornbeam_hook_call:tell_invoked(Caller, Ref, self()),
    Monitor = monitor(process, Caller),
    Invoke = #invoke{caller = Caller, ref = Ref, monitor = Monitor},
    {[{invoke, Id, Path, Method, Args, Kwargs, Kind}],
     Hooks#hooks{next_id = Id + 1, invokes = Invokes#{Id => Invoke}, ids = Ids#{Ref => Id},
                 monitors = Monitors#{Monitor => {invoke, Id}}}}.

%% @doc Its caller will take so many items more.
-spec credit(reference(), pos_integer(), hooks()) -> {messages(), hooks()}.
credit(Ref, Count, Hooks = #hooks{ids = Ids, invokes = Invokes}) ->
    case Ids of
        #{Ref := Id} ->
            #{Id := Invoke = #invoke{credit = Credit}} = Invokes,
            {[{invoke_credit, Id, Count}],
             Hooks#hooks{invokes = Invokes#{Id := Invoke#invoke{credit = Credit + Count}}}};
        #{} ->
            {[], Hooks}
    end.

%% @doc Python gives an item. One that nobody has given credit for ends the invocation: what waits
%% for a consumer is bounded.
-spec produce(invoke_id(), hornbeam_blob:blob(), hooks()) -> {messages(), hooks()}.
produce(Id, Blob, Hooks = #hooks{invokes = Invokes}) ->
    case Invokes of
        #{Id := #invoke{credit = 0, caller = Caller, ref = Ref}} ->
            Facts = #{class => <<"ProtocolError">>, stack => <<>>,
                      reason => <<"the service gave more items than were asked for">>},
            %% First: who has the answer may look at once who has the fewest.
            Forgotten = forget_invoke(Id, Hooks),
            hornbeam_hook_call:tell_error(Caller, Ref, {remote_error, Facts}),
            {[{invoke_cancel, Id}], Forgotten};
        #{Id := Invoke = #invoke{credit = Credit, caller = Caller, ref = Ref}} ->
            hornbeam_hook_call:tell_item(Caller, Ref, Blob),
            {[], Hooks#hooks{invokes = Invokes#{Id := Invoke#invoke{credit = Credit - 1}}}};
        #{} ->
            {[], Hooks}
    end.

%% @doc Python has the result, or the stream has ended.
-spec result(invoke_id(), {ok, hornbeam_blob:blob()} | {error, map()}, hooks()) -> hooks().
result(Id, Result, Hooks = #hooks{invokes = Invokes}) ->
    case Invokes of
        #{Id := #invoke{caller = Caller, ref = Ref}} ->
            Forgotten = forget_invoke(Id, Hooks),
            hornbeam_hook_call:tell_result(Caller, Ref, case Result of
                {ok, Blob} -> {ok, Blob};
                {error, Facts} -> {error, {remote_error, Facts}}
            end),
            Forgotten;
        #{} ->
            Hooks
    end.

%%% Streams

%% @doc Python takes a stream; `Sink' gets the events of it, with its number, in the relay.
-spec open_stream(fun((stream_id(), hornbeam_hook_stream:event()) -> term()),
                  hornbeam_hook_call:invocation(), timeout(), hooks()) -> hooks().
open_stream(Sink, Invocation, TimeoutMs, Hooks) ->
    #hooks{next_id = Id, relays = Relays, monitors = Monitors} = Hooks,
    Relay = hornbeam_hook_stream:start(self(), fun(Event) -> Sink(Id, Event) end, Invocation,
                                       TimeoutMs),
    Monitor = monitor(process, Relay),
    Hooks#hooks{next_id = Id + 1, relays = Relays#{Id => Relay},
                monitors = Monitors#{Monitor => {relay, Id}}}.

%% @doc How many streams are open.
-spec stream_count(hooks()) -> non_neg_integer().
stream_count(#hooks{relays = Relays}) ->
    map_size(Relays).

-spec give_credit(stream_id(), pos_integer(), hooks()) -> ok.
give_credit(Id, Count, #hooks{relays = Relays}) ->
    case Relays of
        #{Id := Relay} -> hornbeam_hook_stream:give_credit(Relay, Count);
        #{} -> ok
    end.

-spec cancel(stream_id(), hooks()) -> ok.
cancel(Id, #hooks{relays = Relays}) ->
    case Relays of
        #{Id := Relay} -> hornbeam_hook_stream:cancel(Relay);
        #{} -> ok
    end.

%%% Both

%% @doc A process has ended; `unknown' where it was none of these.
-spec process_down(reference(), hooks()) -> {messages(), hooks()} | unknown.
process_down(Monitor, Hooks = #hooks{monitors = Monitors, relays = Relays}) ->
    case Monitors of
        #{Monitor := {invoke, Id}} ->
            {[{invoke_cancel, Id}], forget_invoke(Id, Hooks)};
        #{Monitor := {relay, Id}} ->
            {[], Hooks#hooks{relays = maps:remove(Id, Relays),
                             monitors = maps:remove(Monitor, Monitors)}};
        #{} ->
            unknown
    end.

%%% Internal

forget_invoke(Id, Hooks = #hooks{invokes = Invokes, ids = Ids, monitors = Monitors}) ->
    #{Id := #invoke{ref = Ref, monitor = Monitor}} = Invokes,
    demonitor(Monitor, [flush]),
    hornbeam_hook_registry:count_down(self()),
    Hooks#hooks{invokes = maps:remove(Id, Invokes), ids = maps:remove(Ref, Ids),
                monitors = maps:remove(Monitor, Monitors)}.
