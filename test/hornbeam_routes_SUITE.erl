%% SPDX-License-Identifier: Apache-2.0
-module(hornbeam_routes_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([init_per_testcase/2]).

-export([message_reaches_its_stream/1]).
-export([unknown_id_is_dropped/1]).
-export([detached_is_in_flight_but_not_heard/1]).
-export([removed_once/1]).
-export([done_before_the_answer_is_told/1]).
-export([answered_in_one_step/1]).
-export([answered_for_nobody/1]).
-export([answered_behind_a_start/1]).
-export([given_back/1]).
-export([given_back_too_late/1]).
-export([nobody_listens_behind_a_whole_response/1]).
-export([window_is_counted/1]).
-export([expiry_at_the_limit/1]).
-export([started_does_not_expire/1]).
-export([accepted_while_it_is_open/1]).
-export([what_is_not_accepted/1]).
-export([informational_does_not_stop_the_clock/1]).
-export([expired_once/1]).
-export([detached_does_not_expire/1]).
-export([orphans_are_found_once/1]).
-export([orphan_of_a_websocket/1]).
-export([going_away_is_told/1]).
-export([all_told/1]).
-export([table_is_inherited/1]).
-export([table_that_is_gone/1]).

all() ->
    [
        message_reaches_its_stream,
        unknown_id_is_dropped,
        detached_is_in_flight_but_not_heard,
        removed_once,
        done_before_the_answer_is_told,
        answered_in_one_step,
        answered_for_nobody,
        answered_behind_a_start,
        given_back,
        given_back_too_late,
        nobody_listens_behind_a_whole_response,
        window_is_counted,
        expiry_at_the_limit,
        started_does_not_expire,
        accepted_while_it_is_open,
        what_is_not_accepted,
        informational_does_not_stop_the_clock,
        expired_once,
        detached_does_not_expire,
        orphans_are_found_once,
        orphan_of_a_websocket,
        going_away_is_told,
        all_told,
        table_is_inherited,
        table_that_is_gone
    ].

init_per_testcase(_, Config) ->
    [{routes, hornbeam_routes:new()} | Config].

%% A stream gets what the worker says of its request, as Cowboy wants messages to streams to be.
message_reaches_its_stream(Config) ->
    Routes = routes(Config),
    true = hornbeam_routes:insert(Routes, 1, {self(), 7}, 0),
    ok = hornbeam_routes:deliver(Routes, {data, 1, <<"x">>}, 65536),
    ?assertEqual([{{self(), 7}, {data, 1, <<"x">>}}], flush()).

%% A late message for a request that is over goes nowhere.
unknown_id_is_dropped(Config) ->
    ok = hornbeam_routes:deliver(routes(Config), {data, 1, <<"x">>}, 65536),
    ?assertEqual([], flush()).

%% A request whose client has gone is the worker's until it is done with it.
detached_is_in_flight_but_not_heard(Config) ->
    Routes = routes(Config),
    true = hornbeam_routes:insert(Routes, 1, {self(), 7}, 0),
    ?assert(hornbeam_routes:detach(Routes, 1)),
    ok = hornbeam_routes:deliver(Routes, {data, 1, <<"x">>}, 65536),
    ?assertEqual([], flush()),
    ?assert(hornbeam_routes:done(Routes, 1)),
    ?assertNot(hornbeam_routes:detach(Routes, 1)).

%% Only the first `done' of a request gives its place back.
removed_once(Config) ->
    Routes = routes(Config),
    true = hornbeam_routes:insert(Routes, 1, {self(), 7}, 0),
    ?assert(hornbeam_routes:done(Routes, 1)),
    ?assertNot(hornbeam_routes:done(Routes, 1)).

%% A stream that waits for more hears that there is none; one that has had all of it does not.
done_before_the_answer_is_told(Config) ->
    Routes = routes(Config),
    [true = hornbeam_routes:insert(Routes, Id, {self(), Id}, 0) || Id <- [1, 2, 3, 4]],
    Begin = fun(Id) -> ok = hornbeam_routes:deliver(Routes, {start, Id, 200, [], <<>>}, 10) end,
    ok = hornbeam_routes:deliver(Routes, {response, 2, 200, [], <<>>}, 10),
    lists:foreach(Begin, [3, 4]),
    ok = hornbeam_routes:deliver(Routes, {last, 4, <<>>}, 10),
    _ = flush(),
    [?assert(hornbeam_routes:done(Routes, Id)) || Id <- [1, 2, 3, 4]],
    ?assertEqual([{{self(), 1}, {abort, 1}}, {{self(), 3}, {abort, 3}}], flush()).

%% A whole response with which the request is over.
answered_in_one_step(Config) ->
    Routes = routes(Config),
    Response = {response, 1, 200, [], <<"x">>},
    true = hornbeam_routes:insert(Routes, 1, {self(), 7}, 0),
    ?assert(answer(Routes, Response)),
    ?assertEqual([{{self(), 7}, Response}], flush()),
    ?assertEqual(0, hornbeam_routes:count(Routes)),
    %% Only the first end of a request gives its place back.
    ?assertNot(answer(Routes, Response)),
    ?assertNot(hornbeam_routes:done(Routes, 1)),
    ?assertEqual([], flush()),
    ok = hornbeam_routes:delete(Routes),
    ?assertNot(answer(Routes, Response)).

%% Whether the request was known.
answer(Routes, Response = {response, Id, _, _, _}) ->
    case hornbeam_routes:finish(Routes, Id) of
        unknown -> false;
        Finished -> hornbeam_routes:answer(Finished, Response) =:= ok
    end.

%% The client has gone: the request is over all the same.
answered_for_nobody(Config) ->
    Routes = routes(Config),
    true = hornbeam_routes:insert(Routes, 1, {self(), 7}, 0),
    true = hornbeam_routes:detach(Routes, 1),
    ?assert(answer(Routes, {response, 1, 200, [], <<>>})),
    ?assertEqual([], flush()).

%% A worker that sends a whole response behind the start of another one: the stream that waits for the
%% rest hears that there is none.
answered_behind_a_start(Config) ->
    Routes = routes(Config),
    [true = hornbeam_routes:insert(Routes, Id, {self(), Id}, 0) || Id <- [1, 2]],
    [ok = hornbeam_routes:deliver(Routes, {start, Id, 200, [], <<>>}, 10) || Id <- [1, 2]],
    ok = hornbeam_routes:deliver(Routes, {last, 2, <<>>}, 10),
    _ = flush(),
    [?assert(answer(Routes, {response, Id, 200, [], <<>>})) || Id <- [1, 2]],
    ?assertEqual([{{self(), 1}, {abort, 1}}], flush()).

%% What a worker says behind a whole response is for nobody; until `done' the request is in flight.
nobody_listens_behind_a_whole_response(Config) ->
    Routes = routes(Config),
    Response = {response, 1, 200, [], <<>>},
    true = hornbeam_routes:insert(Routes, 1, {self(), 7}, 0),
    ok = hornbeam_routes:deliver(Routes, Response, 10),
    ?assertEqual([{{self(), 7}, Response}], flush()),
    [ok = hornbeam_routes:deliver(Routes, Message, 10)
     || Message <- [Response, {data, 1, <<"x">>}, {abort, 1}]],
    ?assertEqual([], hornbeam_routes:expire(Routes, 1000)),
    ok = hornbeam_routes:tell_all(Routes, worker_down),
    true = hornbeam_routes:insert(Routes, 2, {self(), 8}, 0),
    ok = hornbeam_routes:deliver(Routes, setelement(2, Response, 2), 10),
    _ = flush(),
    ?assertEqual(1, hornbeam_routes:count(Routes)),
    ?assert(hornbeam_routes:done(Routes, 2)),
    ?assertEqual([], flush()).

%% Twice the window may be unacknowledged, and whatever comes on top of that at once; no more.
window_is_counted(Config) ->
    Routes = routes(Config),
    true = hornbeam_routes:insert(Routes, 1, {self(), 7}, 0),
    Deliver = fun(Bytes) ->
        hornbeam_routes:deliver(Routes, {data, 1, binary:copy(<<"x">>, Bytes)}, 10)
    end,
    ?assertEqual([ok, ok], [Deliver(20), Deliver(1)]),
    ok = hornbeam_routes:acknowledged(Routes, 1, 1),
    ?assertEqual([ok, overrun], [Deliver(100), Deliver(1)]),
    ok = hornbeam_routes:acknowledged(Routes, 1, 121),
    ?assertEqual(ok, Deliver(1)).

%% What was dispatched at the limit is late, what came a millisecond after it is not.
expiry_at_the_limit(Config) ->
    Routes = routes(Config),
    [true = hornbeam_routes:insert(Routes, Id, {self(), Id}, 100 + Id) || Id <- [1, 2, 3]],
    ?assertEqual([1, 2], lists:sort(hornbeam_routes:expire(Routes, 102))),
    ?assertEqual(
        [{{self(), 1}, {timeout, 1}}, {{self(), 2}, {timeout, 2}}],
        lists:sort(flush())
    ).

%% A response that has begun is not cut.
started_does_not_expire(Config) ->
    Routes = routes(Config),
    Starts = [{start, 1, 200, [], <<>>}, {response, 2, 200, [], <<>>}],
    [
        begin
            Id = element(2, Message),
            true = hornbeam_routes:insert(Routes, Id, {self(), Id}, 0),
            ok = hornbeam_routes:deliver(Routes, Message, 65536)
        end
     || Message <- Starts
    ],
    ?assertEqual([], hornbeam_routes:expire(Routes, 1000)).

%% A WebSocket's session is found from its handshake to its end, and does not expire meanwhile.
accepted_while_it_is_open(Config) ->
    Routes = routes(Config),
    true = hornbeam_routes:insert(Routes, 1, {self(), 7}, 0),
    ?assertEqual(none, hornbeam_routes:accepted(Routes, 1)),
    ok = hornbeam_routes:deliver(Routes, {accept, 1, undefined, []}, 65536),
    ?assertEqual([{{self(), 7}, {accept, 1, undefined, []}}], flush()),
    ?assertEqual({ok, {self(), 7}}, hornbeam_routes:accepted(Routes, 1)),
    ok = hornbeam_routes:deliver(Routes, {message, 1, text, <<"x">>}, 65536),
    ?assertEqual([], hornbeam_routes:expire(Routes, 1000)),
    ?assertEqual({ok, {self(), 7}}, hornbeam_routes:accepted(Routes, 1)),
    true = hornbeam_routes:detach(Routes, 1),
    ?assertEqual(none, hornbeam_routes:accepted(Routes, 1)),
    true = hornbeam_routes:done(Routes, 1),
    ?assertEqual(none, hornbeam_routes:accepted(Routes, 1)),
    ok = hornbeam_routes:delete(Routes),
    ?assertEqual(none, hornbeam_routes:accepted(Routes, 1)).

%% A denial, an ordinary response, and a handshake that came too late.
what_is_not_accepted(Config) ->
    Routes = routes(Config),
    [true = hornbeam_routes:insert(Routes, Id, {self(), Id}, 0) || Id <- [1, 2, 3]],
    ok = hornbeam_routes:deliver(Routes, {start, 1, 403, [], <<>>}, 65536),
    ok = hornbeam_routes:deliver(Routes, {response, 2, 200, [], <<>>}, 65536),
    [3] = hornbeam_routes:expire(Routes, 1000),
    [ok = hornbeam_routes:deliver(Routes, {accept, Id, undefined, []}, 65536) || Id <- [1, 2, 3]],
    [?assertEqual({Id, none}, {Id, hornbeam_routes:accepted(Routes, Id)}) || Id <- [1, 2, 3]].

%% Early hints are no answer.
informational_does_not_stop_the_clock(Config) ->
    Routes = routes(Config),
    true = hornbeam_routes:insert(Routes, 1, {self(), 1}, 0),
    ok = hornbeam_routes:deliver(Routes, {inform, 1, 103, []}, 65536),
    ?assertEqual([1], hornbeam_routes:expire(Routes, 1000)).

%% A stream hears once that its time is up.
expired_once(Config) ->
    Routes = routes(Config),
    true = hornbeam_routes:insert(Routes, 1, {self(), 1}, 0),
    ?assertEqual([1], hornbeam_routes:expire(Routes, 1000)),
    ?assertEqual([], hornbeam_routes:expire(Routes, 2000)).

%% Nobody waits for the answer to a request whose client has gone.
detached_does_not_expire(Config) ->
    Routes = routes(Config),
    true = hornbeam_routes:insert(Routes, 1, {self(), 1}, 0),
    true = hornbeam_routes:detach(Routes, 1),
    ?assertEqual([], hornbeam_routes:expire(Routes, 1000)).

%% A connection that was killed could not say that it leaves.
orphans_are_found_once(Config) ->
    Routes = routes(Config),
    {Dead, Monitor} = spawn_monitor(fun() -> ok end),
    receive {'DOWN', Monitor, process, Dead, _} -> ok end,
    true = hornbeam_routes:insert(Routes, 1, {Dead, 1}, 0),
    true = hornbeam_routes:insert(Routes, 2, {self(), 1}, 0),
    ?assertEqual([{disconnect, 1}], hornbeam_routes:orphans(Routes)),
    ?assertEqual([], hornbeam_routes:orphans(Routes)),
    ?assert(hornbeam_routes:done(Routes, 1)).

%% Of a WebSocket that was open the worker learns how it was closed.
orphan_of_a_websocket(Config) ->
    Routes = routes(Config),
    {Pid, Monitor} = spawn_monitor(fun() -> receive stop -> ok end end),
    true = hornbeam_routes:insert(Routes, 1, {Pid, 1}, 0),
    ok = hornbeam_routes:deliver(Routes, {accept, 1, undefined, []}, 65536),
    ?assertEqual([], hornbeam_routes:orphans(Routes)),
    Pid ! stop,
    receive {'DOWN', Monitor, process, Pid, _} -> ok end,
    ?assertEqual([{closed, 1, 1006, <<>>}], hornbeam_routes:orphans(Routes)),
    ?assertEqual([], hornbeam_routes:orphans(Routes)).

%% What has not begun goes back to its stream, once.
given_back(Config) ->
    Routes = routes(Config),
    Self = self(),
    true = hornbeam_routes:insert(Routes, 1, {Self, 7}, 0),
    ?assert(hornbeam_routes:return(Routes, {returned, 1, <<"body">>})),
    ?assertNot(hornbeam_routes:return(Routes, {returned, 1, <<"body">>})),
    ?assertEqual([{{Self, 7}, {returned, 1, <<"body">>}}], flush()),
    true = hornbeam_routes:insert(Routes, 2, {Self, 7}, 0),
    true = hornbeam_routes:detach(Routes, 2),
    ?assert(hornbeam_routes:return(Routes, {returned, 2, <<>>})),
    ?assertEqual([], flush()).

%% Of what has begun nothing more comes: the stream must not wait for it.
given_back_too_late(Config) ->
    Routes = routes(Config),
    Self = self(),
    Firsts = [{start, 1, 200, [], <<>>}, {accept, 2, undefined, []}, {abort, 3}],
    [true = hornbeam_routes:insert(Routes, Id, {Self, Id}, 0) || Id <- [1, 2, 3]],
    [ok = hornbeam_routes:deliver(Routes, First, 65536) || First <- Firsts],
    _ = flush(),
    [true = hornbeam_routes:return(Routes, {returned, Id, <<>>}) || Id <- [1, 2, 3]],
    ?assertEqual([{{Self, 1}, {abort, 1}}, {{Self, 2}, {abort, 2}}], flush()).

%% Only WebSockets that were accepted, and that somebody has, are told that the server goes away.
going_away_is_told(Config) ->
    Routes = routes(Config),
    [true = hornbeam_routes:insert(Routes, Id, {self(), Id}, 0) || Id <- [1, 2, 3]],
    [ok = hornbeam_routes:deliver(Routes, {accept, Id, undefined, []}, 65536) || Id <- [2, 3]],
    true = hornbeam_routes:detach(Routes, 3),
    ok = hornbeam_routes:tell_going_away(Routes),
    Self = self(),
    ?assertEqual([{{Self, 2}, {accept, 2, undefined, []}}, {{Self, 3}, {accept, 3, undefined, []}},
                  {{Self, 2}, {going_away, 2}}], flush()),
    ok = hornbeam_routes:delete(Routes),
    ?assertEqual(ok, hornbeam_routes:tell_going_away(Routes)).

%% When the worker has died every stream that waits for it is told so, once.
all_told(Config) ->
    Routes = routes(Config),
    true = hornbeam_routes:insert(Routes, 1, {self(), 1}, 0),
    true = hornbeam_routes:insert(Routes, 2, {self(), 5}, 0),
    true = hornbeam_routes:detach(Routes, 2),
    ok = hornbeam_routes:tell_all(Routes, worker_down),
    ?assertEqual([{{self(), 1}, {worker_down, 1}}], flush()),
    ?assertEqual(0, hornbeam_routes:count(Routes)),
    ok = hornbeam_routes:tell_all(Routes, worker_down),
    ?assertEqual([], flush()).

%% Who is killed with the table leaves it to the worker, so that somebody can tell the streams.
table_is_inherited(_) ->
    Self = self(),
    {Owner, Monitor} = spawn_monitor(fun() ->
        Routes = hornbeam_routes:new(),
        ok = hornbeam_routes:set_heir(Routes, Self),
        true = hornbeam_routes:insert(Routes, 1, {Self, 1}, 0),
        exit(self(), kill)
    end),
    Routes = receive {'ETS-TRANSFER', Table, Owner, _} -> Table end,
    receive {'DOWN', Monitor, process, Owner, killed} -> ok end,
    ok = hornbeam_routes:tell_all(Routes, worker_down),
    ?assertEqual([{{Self, 1}, {worker_down, 1}}], flush()).

%% Connections that come late find no table, which is an answer.
table_that_is_gone(Config) ->
    Routes = routes(Config),
    ok = hornbeam_routes:delete(Routes),
    ?assertNot(hornbeam_routes:insert(Routes, 1, {self(), 1}, 0)),
    ?assertNot(hornbeam_routes:detach(Routes, 1)),
    ?assertNot(hornbeam_routes:done(Routes, 1)),
    ?assertEqual(ok, hornbeam_routes:deliver(Routes, {data, 1, <<>>}, 65536)).

%% Internal.

routes(Config) ->
    proplists:get_value(routes, Config).

flush() ->
    receive
        Message -> [Message | flush()]
    after 0 -> []
    end.
