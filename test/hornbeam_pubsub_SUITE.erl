%% SPDX-License-Identifier: Apache-2.0
%% Topics: patterns, who gets what how often, workers that do not read, and other nodes.
-module(hornbeam_pubsub_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([topics_and_patterns/1]).
-export([bad_topics_and_patterns/1]).
-export([once_for_each_process/1]).
-export([unsubscribed/1]).
-export([for_another_process/1]).
-export([ends_with_the_process/1]).
-export([in_order/1]).
-export([many_patterns_cost_little/1]).
-export([decoded_for_erlang_alone/1]).
-export([workers_count_each_subscription/1]).
-export([from_worker_to_worker/1]).
-export([ends_with_the_worker/1]).
-export([a_worker_that_does_not_read/1]).
-export([scope_crashes/1]).
-export([keeper_crashes/1]).
-export([scope_crashes_on_another_node/1]).
-export([across_nodes/1]).
-export([worker_on_another_node/1]).

%% Called on other nodes.
-export([new_subscriber/0]).
-export([messages_of/1]).
-export([kill/1]).

all() ->
    [
        topics_and_patterns,
        bad_topics_and_patterns,
        once_for_each_process,
        unsubscribed,
        for_another_process,
        ends_with_the_process,
        in_order,
        many_patterns_cost_little,
        decoded_for_erlang_alone,
        workers_count_each_subscription,
        from_worker_to_worker,
        ends_with_the_worker,
        a_worker_that_does_not_read,
        scope_crashes,
        keeper_crashes,
        scope_crashes_on_another_node,
        across_nodes,
        worker_on_another_node
    ].

init_per_testcase(_, Config) ->
    _ = application:stop(hornbeam),
    {ok, _} = application:ensure_all_started(hornbeam),
    hornbeam_test_server:new_folder(Config).

end_per_testcase(_, _) ->
    _ = application:stop(hornbeam),
    ok.

%% Which patterns reach which topics.
topics_and_patterns(_) ->
    [begin
         ok = hornbeam_pubsub:subscribe(Pattern),
         Reached = [Topic || Topic <- Matching ++ Others,
                             hornbeam_pubsub:publish(Topic, {for, Pattern}) =:= 1],
         ?assertEqual({Pattern, Matching}, {Pattern, Reached}),
         ?assertEqual(Matching, [take_topic({for, Pattern}) || _ <- Matching]),
         ?assert(hornbeam_pubsub:unsubscribe(Pattern))
     end || {Pattern, Matching, Others} <- [
         {<<"a">>, [<<"a">>], [<<"a:b">>, <<"A">>, <<>>, <<"a:">>]},
         {<<"a:b">>, [<<"a:b">>], [<<"a/b">>, <<"a">>]},
         {<<"a:*">>, [<<"a:b">>, <<"a/b">>, <<"a:">>], [<<"a">>, <<"a:b:c">>, <<"b:b">>]},
         {<<"a/*/c">>, [<<"a:b/c">>, <<"a::c">>], [<<"a:b:d">>, <<"a:c">>]},
         {<<"*">>, [<<"a">>, <<>>], [<<"a:b">>]},
         {<<"a:#">>, [<<"a">>, <<"a:b">>, <<"a/b/c">>], [<<"ab">>, <<"b:a">>]},
         {<<"#">>, [<<"a">>, <<"a:b:c">>, <<>>], []},
         {<<"*:b:#">>, [<<"a:b">>, <<"c/b/d/e">>], [<<"b">>, <<"a:c:b">>]},
         {<<"a*">>, [<<"a*">>], [<<"ab">>]}
     ]].

bad_topics_and_patterns(_) ->
    [?assertEqual({error, {invalid_pattern, #{pattern => Pattern}}},
                  hornbeam_pubsub:subscribe(Pattern))
     || Pattern <- [<<"#:a">>, <<"a:#:b">>, <<"#/#">>]],
    [?assertError(badarg, hornbeam_pubsub:publish(Topic, 1)) || Topic <- [<<"a:*">>, <<"#">>]],
    ?assertEqual({error, {invalid_topic, #{topic => <<"a:*">>}}},
                 hornbeam_services:call(publish, {<<"a:*">>, <<131, 97, 1>>})).

%% Two of its patterns match, and one twice: one message.
once_for_each_process(_) ->
    [ok = hornbeam_pubsub:subscribe(Pattern)
     || Pattern <- [<<"a:b">>, <<"a:*">>, <<"#">>, <<"#">>]],
    ?assertEqual(1, hornbeam_pubsub:publish(<<"a:b">>, m)),
    ?assertEqual(<<"a:b">>, take_topic(m)),
    ?assertEqual({messages, []}, process_info(self(), messages)).

%% As many times as it was subscribed.
unsubscribed(_) ->
    ?assertNot(hornbeam_pubsub:unsubscribe(<<"a:*">>)),
    [ok = hornbeam_pubsub:subscribe(<<"a:*">>) || _ <- [1, 2]],
    ?assert(hornbeam_pubsub:unsubscribe(<<"a:*">>)),
    ?assertEqual(1, hornbeam_pubsub:publish(<<"a:b">>, m)),
    ?assert(hornbeam_pubsub:unsubscribe(<<"a:*">>)),
    ?assertNot(hornbeam_pubsub:unsubscribe(<<"a:*">>)),
    ?assertEqual(0, hornbeam_pubsub:publish(<<"a:b">>, m)),
    ?assertNot(hornbeam_pubsub:unsubscribe(<<"#:a">>)),
    ?assertEqual([], pg:which_groups(hornbeam_pubsub_shapes)).

for_another_process(_) ->
    Pid = new_subscriber(),
    ok = hornbeam_pubsub:subscribe(<<"a">>, Pid),
    ?assertEqual(1, hornbeam_pubsub:publish(<<"a">>, m)),
    ?assertEqual([{hornbeam_pubsub, <<"a">>, m}], messages_of(Pid)),
    ?assert(hornbeam_pubsub:unsubscribe(<<"a">>, Pid)),
    ?assertEqual(0, hornbeam_pubsub:publish(<<"a">>, m)).

ends_with_the_process(_) ->
    Pid = new_subscriber(),
    ok = hornbeam_pubsub:subscribe(<<"a:*">>, Pid),
    ?assertEqual(1, hornbeam_pubsub:publish(<<"a:b">>, m)),
    exit(Pid, kill),
    hornbeam_test_wait:until(fun() -> hornbeam_pubsub:publish(<<"a:b">>, m) =:= 0 end),
    hornbeam_test_wait:until(fun() -> pg:which_groups(hornbeam_pubsub_shapes) =:= [] end).

in_order(_) ->
    ok = hornbeam_pubsub:subscribe(<<"#">>),
    [1 = hornbeam_pubsub:publish(<<"t">>, N) || N <- lists:seq(1, 1000)],
    ?assertEqual(lists:seq(1, 1000),
                 [receive {hornbeam_pubsub, _, N} -> N end || _ <- lists:seq(1, 1000)]).

%% The reductions of a publish do not grow with the patterns, but with their shapes.
many_patterns_cost_little(_) ->
    ok = hornbeam_pubsub:subscribe(<<"user:0:*">>),
    Few = reductions_of_publish(),
    [ok = hornbeam_pubsub:subscribe(<<"user:", (integer_to_binary(N))/binary, ":*">>)
     || N <- lists:seq(1, 3000)],
    Many = reductions_of_publish(),
    ?assert(Many < 2 * Few, {Few, Many}).

reductions_of_publish() ->
    {reductions, Before} = process_info(self(), reductions),
    [1 = hornbeam_pubsub:publish(<<"user:0:mail">>, m) || _ <- lists:seq(1, 100)],
    {reductions, After} = process_info(self(), reductions),
    After - Before.

%% A message of Python with an atom that is not known here: an error that says so, but only where
%% an Erlang process wants it.
decoded_for_erlang_alone(_) ->
    Name = <<"hornbeam_pubsub_no_such_", "atom_at_all">>,
    Blob = <<131, 119, (byte_size(Name)), Name/binary>>,
    ?assertEqual({ok, 0}, hornbeam_services:call(publish, {<<"a">>, Blob})),
    ok = hornbeam_pubsub:subscribe(<<"a">>),
    ?assertEqual({error, {unknown_atom, #{text => Name}}},
                 hornbeam_services:call(publish, {<<"a">>, Blob})),
    ?assertEqual({ok, 1}, hornbeam_services:call(publish, {<<"a">>, <<131, 97, 5>>})),
    ?assertEqual(<<"a">>, take_topic(5)).

%% Three subscriptions of one worker count three times and cross the port once.
workers_count_each_subscription(Config) ->
    Port = hornbeam_test_services:start(Config),
    [<<"ok True">> = hornbeam_test_services:call(Port, "subscribe", Args)
     || Args <- ["(b'a:b',)", "(b'a:b',)", "(b'a:*',)"]],
    <<"error invalid_pattern">> = hornbeam_test_services:call(Port, "subscribe", "(b'#:a',)"),
    ?assertEqual(3, hornbeam_pubsub:publish(<<"a:b">>, <<"first">>)),
    ?assertEqual(1, hornbeam_pubsub:publish(<<"a:c">>, <<"second">>)),
    hornbeam_test_server:await_seen(Config, <<"1 publish a:c second">>),
    ?assertEqual([<<"1 publish a:b first">>, <<"1 publish a:c second">>],
                 published(Config)),
    [<<"ok True">> = hornbeam_test_services:call(Port, "unsubscribe", "(b'a:b',)")
     || _ <- [1, 2]],
    <<"ok False">> = hornbeam_test_services:call(Port, "unsubscribe", "(b'a:b',)"),
    ?assertEqual(1, hornbeam_pubsub:publish(<<"a:b">>, <<"third">>)),
    ok = hornbeam:stop().

%% Also to itself.
from_worker_to_worker(Config) ->
    Port = hornbeam_test_services:start(Config, #{workers => 2}),
    ok = hornbeam_pubsub:subscribe(<<"#">>),
    %% Requests that come one by one go to the workers by turns.
    [<<"ok True">> = hornbeam_test_services:call(Port, "subscribe", "(b'chat',)")
     || _ <- [1, 2]],
    Args = "(b'chat', blob({b'k': [1, b'x']}))",
    ?assertEqual(<<"ok 3">>, hornbeam_test_services:call(Port, "publish", Args)),
    ?assertEqual(<<"chat">>, take_topic(#{<<"k">> => [1, <<"x">>]})),
    [hornbeam_test_wait:until(fun() ->
         [Line || <<Id, " publish chat ", _/binary>> = Line <- published(Config), Id =:= Worker]
             =/= []
     end) || Worker <- "12"],
    ok = hornbeam:stop().

ends_with_the_worker(Config) ->
    Port = hornbeam_test_services:start(Config),
    <<"ok True">> = hornbeam_test_services:call(Port, "subscribe", "(b'a:*',)"),
    ?assertEqual(1, hornbeam_pubsub:publish(<<"a:b">>, m)),
    exit(hornbeam_test_server:worker_pid(default, 1), kill),
    hornbeam_test_wait:until(fun() -> hornbeam_pubsub:publish(<<"a:b">>, m) =:= 0 end),
    hornbeam_test_wait:until(fun() -> pg:which_groups(hornbeam_pubsub_shapes) =:= [] end),
    ok = hornbeam:stop().

%% What it can't take is bounded, counted and told; nothing is lost before that or after it.
a_worker_that_does_not_read(Config) ->
    Port = hornbeam_test_services:start(Config, #{stall_timeout => infinity}),
    <<"ok True">> = hornbeam_test_services:call(Port, "subscribe", "(b'flood',)"),
    Worker = hornbeam_test_server:worker_pid(default, 1),
    Socket = hornbeam_test_client:connect(Port),
    hornbeam_test_client:get(Socket, "/block?until=go"),
    hornbeam_test_server:await_seen(Config, <<"1 blocked /block">>),
    Message = binary:copy(<<"x">>, 100000),
    [1 = hornbeam_pubsub:publish(<<"flood">>, Message) || _ <- lists:seq(1, 1000)],
    hornbeam_test_wait:until(fun() -> process_info(Worker, message_queue_len) =:=
                                          {message_queue_len, 0} end),
    {writer, Writer} = {writer, writer_of(Worker)},
    {message_queue_len, Waiting} = process_info(Writer, message_queue_len),
    ?assert(Waiting < 200, Waiting),
    hornbeam_test_server:release(Config, "go"),
    {ok, Dropped} = hornbeam_test_wait:until(fun() -> dropped(Config) end),
    Arrived = length(published(Config)),
    ?assertEqual(1000, Arrived + Dropped),
    ?assert(Arrived < 200, Arrived),
    1 = hornbeam_pubsub:publish(<<"flood">>, <<"after">>),
    hornbeam_test_server:await_seen(Config, <<"1 publish flood after">>),
    ok = hornbeam:stop().

%% Who had subscribed has, also more than once, and who comes or goes meanwhile counts; all that, in
%% Erlang and in a worker.
scope_crashes(Config) ->
    Port = hornbeam_test_services:start(Config),
    [<<"ok True">> = hornbeam_test_services:call(Port, "subscribe", Args)
     || Args <- ["(b'a:b',)", "(b'a:b',)", "(b'a:*',)"]],
    ok = hornbeam_pubsub:subscribe(<<"a:#">>),
    [begin
         Gone = new_subscriber(),
         ok = hornbeam_pubsub:subscribe(<<"a:b">>, Gone),
         ?assertEqual(5, hornbeam_pubsub:publish(<<"a:b">>, m)),
         ok = supervisor:terminate_child(hornbeam_sup, Scope),
         exit(Gone, kill),
         ok = hornbeam_pubsub:subscribe(<<"late">>),
         %% Nobody fails for want of a scope.
         _ = hornbeam_pubsub:publish(<<"a:b">>, lost),
         {ok, _} = supervisor:restart_child(hornbeam_sup, Scope),
         await_reached(4, <<"a:b">>),
         await_reached(1, <<"late">>),
         ?assert(hornbeam_pubsub:unsubscribe(<<"late">>)),
         ?assertNot(hornbeam_pubsub:unsubscribe(<<"late">>)),
         kill(Scope),
         await_reached(4, <<"a:b">>),
         await_reached(0, <<"late">>)
     end || Scope <- [hornbeam_pubsub, hornbeam_pubsub_shapes]],
    [<<"ok True">> = hornbeam_test_services:call(Port, "unsubscribe", "(b'a:b',)") || _ <- [1, 2]],
    <<"ok False">> = hornbeam_test_services:call(Port, "unsubscribe", "(b'a:b',)"),
    ?assertEqual(2, hornbeam_pubsub:publish(<<"a:b">>, m)),
    ok = hornbeam:stop(),
    %% The groups learn of the worker's end by themselves.
    await_reached(1, <<"a:b">>).

%% Nor is anything forgotten, or counted twice, by who keeps the list.
keeper_crashes(_) ->
    Subscriber = new_subscriber(),
    [ok = hornbeam_pubsub:subscribe(Pattern, Subscriber) || Pattern <- [<<"a">>, <<"a">>, <<"*">>]],
    kill(hornbeam_groups),
    kill(hornbeam_pubsub),
    await_reached(1, <<"a">>),
    kill(hornbeam_groups),
    ?assertEqual([true, true, false],
                 [hornbeam_pubsub:unsubscribe(<<"a">>, Subscriber) || _ <- [1, 2, 3]]),
    ?assertEqual(1, hornbeam_pubsub:publish(<<"a">>, m)),
    exit(Subscriber, kill),
    await_reached(0, <<"a">>),
    hornbeam_test_wait:until(fun() -> ets:tab2list(hornbeam_groups) =:= [] end).

%% The other nodes hear of it.
scope_crashes_on_another_node(_) ->
    Cluster = {_, [One, Two]} = hornbeam_test_cluster:start(2),
    Subscriber = hornbeam_test_cluster:call(Two, ?MODULE, new_subscriber, []),
    ok = hornbeam_test_cluster:call(Two, hornbeam_pubsub, subscribe, [<<"a:*">>, Subscriber]),
    Reached = fun() ->
        hornbeam_test_cluster:call(One, hornbeam_pubsub, publish, [<<"a:b">>, m]) =:= 1
    end,
    hornbeam_test_wait:until(Reached),
    [ok = hornbeam_test_cluster:call(Peer, ?MODULE, kill, [Scope])
     || Peer <- [Two, One], Scope <- [hornbeam_pubsub, hornbeam_pubsub_shapes]],
    hornbeam_test_wait:until(Reached),
    hornbeam_test_cluster:stop(Cluster).

%% Subscribers on either node are reached and counted from either, and are gone with their node.
across_nodes(_) ->
    Cluster = {_, [One, Two]} = hornbeam_test_cluster:start(2),
    Subscriber = hornbeam_test_cluster:call(Two, ?MODULE, new_subscriber, []),
    ok = hornbeam_test_cluster:call(Two, hornbeam_pubsub, subscribe, [<<"a:*">>, Subscriber]),
    Publish = fun(Peer) ->
        hornbeam_test_cluster:call(Peer, hornbeam_pubsub, publish, [<<"a:b">>, {m, node()}])
    end,
    hornbeam_test_wait:until(fun() -> Publish(One) =:= 1 end),
    ?assertEqual(1, Publish(Two)),
    hornbeam_test_wait:until(fun() ->
        Messages = hornbeam_test_cluster:call(Two, ?MODULE, messages_of, [Subscriber]),
        length([M || {hornbeam_pubsub, <<"a:b">>, {m, _}} = M <- Messages]) >= 2
    end),
    peer:stop(element(1, Two)),
    hornbeam_test_wait:until(fun() -> Publish(One) =:= 0 end),
    hornbeam_test_cluster:stop(Cluster).

%% A worker on another node gets what is published here.
worker_on_another_node(Config) ->
    Cluster = {_, [One, Two]} = hornbeam_test_cluster:start(2),
    Port = hornbeam_test_cluster:call(Two, hornbeam_test_services, start, [Config]),
    <<"ok True">> = hornbeam_test_services:call(Port, "subscribe", "(b'a:#',)"),
    hornbeam_test_wait:until(fun() ->
        hornbeam_test_cluster:call(One, hornbeam_pubsub, publish, [<<"a:b">>, <<"hi">>]) =:= 1
    end),
    hornbeam_test_server:await_seen(Config, <<"1 publish a:b hi">>),
    ok = hornbeam_test_cluster:call(Two, hornbeam, stop, []),
    hornbeam_test_cluster:stop(Cluster).

%%% Internal

await_reached(Count, Topic) ->
    hornbeam_test_wait:until(fun() -> hornbeam_pubsub:publish(Topic, m) =:= Count end).

%% Kill a named process, and wait for its successor.
kill(Name) ->
    Pid = whereis(Name),
    exit(Pid, kill),
    hornbeam_test_wait:until(fun() -> not lists:member(whereis(Name), [Pid, undefined]) end),
    ok.

%% A process that keeps what it gets.
new_subscriber() ->
    spawn(fun() -> receive stop -> ok end end).

messages_of(Pid) ->
    {messages, Messages} = process_info(Pid, messages),
    Messages.

take_topic(Message) ->
    receive {hornbeam_pubsub, Topic, Message} -> Topic
    after 5000 -> error({no_message, Message, process_info(self(), messages)})
    end.

published(Config) ->
    [Line || Line <- hornbeam_test_server:seen(Config),
             binary:match(Line, <<" publish ">>) =/= nomatch].

dropped(Config) ->
    case [Count || Line <- hornbeam_test_server:seen(Config),
                   [_, <<"dropped">>, Count] <- [binary:split(Line, <<" ">>, [global])]] of
        [] -> false;
        Counts -> {ok, lists:sum([binary_to_integer(Count) || Count <- Counts])}
    end.

%% The one process that the worker is linked to beside its supervisor.
writer_of(Worker) ->
    {links, Links} = process_info(Worker, links),
    [Writer] = [Pid || Pid <- Links, is_pid(Pid),
                       {initial_call, {proc_lib, init_p, _}} <- [process_info(Pid, initial_call)],
                       proc_lib:initial_call(Pid) =:= {hornbeam_writer, init, ['Argument__1']}],
    Writer.
