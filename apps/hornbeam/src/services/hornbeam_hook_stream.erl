%% SPDX-License-Identifier: Apache-2.0

%% @private The relay of one stream, between its consumer and the hook that produces it.
%%
%% Credit goes one way, items the other: the consumer says how many items it will take, and no more
%% come. The relay ends when the stream does, when the consumer cancels or ends, when the hook's
%% process ends, and when the next item, for which there is credit, takes too long; with it ends
%% the invocation. Unless it was the consumer's doing, the last thing that the consumer gets is the
%% end or an error.
-module(hornbeam_hook_stream).

%% API
-export([start/4]).
-export([give_credit/2]).
-export([cancel/1]).

-export_type([event/0, sink/0]).

-type event() :: opened
               | {not_opened, hornbeam_hook_registry:not_found()}
               | {item, hornbeam_blob:blob()}
               | stream_end
               | {stream_error, hornbeam_hook_call:error()}.
%% The first is `opened' or `not_opened', which is then the last as well.

-type sink() :: fun((event()) -> term()).
%% Takes events to the consumer; runs in the relay.

-record(relay, {
    owner_monitor :: reference(),
    sink :: sink(),
    invocation :: hornbeam_hook_call:invocation(),
    timeout_ms :: timeout(),
    target :: pid(),
    ref :: reference(),
    %% Unknown until the target has told it; what credit comes before waits.
    producer :: pid() | undefined,
    waiting_credit = 0 :: non_neg_integer(),
    %% Items that the consumer will take and that have not come.
    outstanding = 0 :: non_neg_integer(),
    %% When the next of them has to be there.
    deadline_ms = infinity :: integer() | infinity
}).

%% @doc Start a relay for a consumer.
-spec start(Owner :: pid(), sink(), hornbeam_hook_call:invocation(), timeout()) -> pid().
start(Owner, Sink, Invocation, TimeoutMs) ->
    spawn(fun() -> open(Owner, Sink, Invocation, TimeoutMs) end).

%% @doc The consumer will take so many items more.
-spec give_credit(pid(), pos_integer()) -> ok.
give_credit(Relay, Count) ->
    Relay ! {credit, Count},
    ok.

%% @doc The consumer has had enough.
-spec cancel(pid()) -> ok.
cancel(Relay) ->
    Relay ! cancel,
    ok.

%%% Internal

open(Owner, Sink, Invocation, TimeoutMs) ->
    OwnerMonitor = monitor(process, Owner),
    case hornbeam_hook_call:open(Invocation, []) of
        {ok, Target, Ref} ->
            Sink(opened),
            loop(#relay{owner_monitor = OwnerMonitor, sink = Sink, invocation = Invocation,
                        timeout_ms = TimeoutMs, target = Target, ref = Ref});
        {error, Error} ->
            Sink({not_opened, Error})
    end.

loop(Relay = #relay{owner_monitor = OwnerMonitor, ref = Ref, sink = Sink}) ->
    receive
        {hornbeam_item, Ref, Blob} ->
            Sink({item, Blob}),
            loop(count_item(Relay));
        {credit, Count} ->
            loop(add_credit(Count, Relay));
        {hornbeam_invoked, Ref, Producer} ->
            loop(pass_credit(Relay#relay{producer = Producer}));
        {hornbeam_result, Ref, {ok, _}} ->
            Sink(stream_end);
        {hornbeam_result, Ref, {error, Error}} ->
            Sink({stream_error, Error});
        {'DOWN', Ref, process, _, Reason} ->
            target_down(Reason, Relay);
        {'DOWN', OwnerMonitor, process, _, _} ->
            ok;
        cancel ->
            ok
    after left_ms(Relay#relay.deadline_ms) ->
        Sink({stream_error, {timeout, #{timeout_ms => Relay#relay.timeout_ms}}})
    end.

%% Dead before it could see anything: another one may take it.
target_down(noproc, Relay = #relay{producer = undefined}) ->
    #relay{target = Target, sink = Sink, invocation = Invocation} = Relay,
    case hornbeam_hook_call:open(Invocation, [Target]) of
        {ok, Other, Ref} -> loop(Relay#relay{target = Other, ref = Ref});
        {error, Error} -> Sink({stream_error, Error})
    end;
target_down(_, #relay{sink = Sink, invocation = Invocation}) ->
    Sink({stream_error, {service_down, #{path => element(1, Invocation)}}}).

add_credit(Count, Relay = #relay{outstanding = 0}) ->
    add_credit_to(Count, renew_deadline(Relay));
add_credit(Count, Relay) ->
    add_credit_to(Count, Relay).

add_credit_to(Count, Relay = #relay{outstanding = Outstanding, waiting_credit = Waiting}) ->
    pass_credit(Relay#relay{outstanding = Outstanding + Count, waiting_credit = Waiting + Count}).

pass_credit(Relay = #relay{producer = Producer, waiting_credit = Count, ref = Ref})
        when is_pid(Producer), Count > 0 ->
    hornbeam_hook_call:give_credit(Producer, Ref, Count),
    Relay#relay{waiting_credit = 0};
pass_credit(Relay) ->
    Relay.

count_item(Relay = #relay{outstanding = 1}) ->
    Relay#relay{outstanding = 0, deadline_ms = infinity};
count_item(Relay = #relay{outstanding = Outstanding}) ->
    renew_deadline(Relay#relay{outstanding = Outstanding - 1}).

renew_deadline(Relay = #relay{timeout_ms = infinity}) ->
    Relay;
renew_deadline(Relay = #relay{timeout_ms = TimeoutMs}) ->
    Relay#relay{deadline_ms = erlang:monotonic_time(millisecond) + TimeoutMs}.

left_ms(infinity) -> infinity;
left_ms(DeadlineMs) -> max(0, DeadlineMs - erlang:monotonic_time(millisecond)).
